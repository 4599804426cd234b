//! The manifests of what the operator makes, in a `ConfigMap` that its pod mounts.

use serde_json::json;

use crate::helm::render;

const ON_POSTGRES: &str = "database.existingSecret=database";
const OPERATOR: &str = "minichat-operator";

/// K8S-40, D38: the operator reads the manifests at its start, so their change restarts it.
#[test]
fn the_operator_mounts_the_manifests_and_starts_again_when_they_change() -> anyhow::Result<()> {
    let template = |settings: &[&str]| {
        let rendered = render(settings)?;
        anyhow::Ok(rendered.get("Deployment", OPERATOR)?["spec"]["template"].clone())
    };
    let template_on_postgres = template(&[ON_POSTGRES])?;
    let pod = &template_on_postgres["spec"];
    let volume = json!({"name": "managed", "configMap": {"name": "minichat-managed"}});
    assert!(pod["volumes"].as_array().unwrap().contains(&volume));
    let mount = json!({"name": "managed", "mountPath": "/etc/minichat-managed", "readOnly": true});
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert!(mounts.as_array().unwrap().contains(&mount));
    let checksum = |settings: &[&str]| {
        let template = template(settings)?;
        anyhow::Ok(template["metadata"]["annotations"]["checksum/managed"].clone())
    };
    let before = checksum(&[ON_POSTGRES])?;
    assert!(before.is_string());
    assert_eq!(checksum(&[ON_POSTGRES])?, before);
    for setting in [
        "watchdog.suspend=true",
        "cleanup.schedule=7 * * * *",
        "image.tag=next",
    ] {
        assert_ne!(checksum(&[ON_POSTGRES, setting])?, before, "{setting}");
    }
    Ok(())
}
