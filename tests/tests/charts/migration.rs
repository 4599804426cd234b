//! Who migrates the schema (K8S-43).

use minichat_config::ProcessConfig;
use serde_json::{Value, json};

use crate::helm::{Rendered, render};

const POOL: &str = "minichat-pool";
const POSTGRES: &str = "database.existingSecret=database";
const BY_A_JOB: &[&str] = &[POSTGRES, "migration.mode=Job"];

fn is_migrated_by_pods(rendered: &Rendered) -> anyhow::Result<bool> {
    let text = &rendered.get("ConfigMap", POOL)?["data"]["config.yaml"];
    let config = ProcessConfig::from_yaml(text.as_str().unwrap_or_default(), []);
    let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
    Ok(config.database.auto_migrate)
}

/// K8S-43
#[test]
fn pods_migrate_unless_a_job_does() -> anyhow::Result<()> {
    for settings in [&[][..], &[POSTGRES], &["migration.mode=Job"]] {
        let rendered = render(settings)?;
        assert!(rendered.names("Job").is_empty(), "{settings:?}");
        assert!(is_migrated_by_pods(&rendered)?, "{settings:?}");
    }
    let rendered = render(BY_A_JOB)?;
    assert_eq!(rendered.names("Job"), ["minichat-migration"]);
    assert!(!is_migrated_by_pods(&rendered)?);
    let wrong = [BY_A_JOB, &["pool.config.database.auto_migrate=true"]].concat();
    assert!(!is_migrated_by_pods(&render(&wrong)?)?, "the Job decides");
    Ok(())
}

/// K8S-43: the hook runs before any other object of the release exists.
#[test]
fn the_job_is_a_hook_that_needs_nothing_of_the_release() -> anyhow::Result<()> {
    let rendered = render(&[
        POSTGRES,
        "migration.mode=Job",
        "database.secretKey=uri",
        "database.certificates.existingConfigMap=roots",
        "pool.config.database.statement_timeout_secs=600",
        "pool.config.logging.level=debug",
    ])?;
    let job = rendered.get("Job", "minichat-migration")?;
    let annotations = &job["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/hook"], "pre-install,pre-upgrade");
    assert_eq!(
        annotations["helm.sh/hook-delete-policy"],
        "before-hook-creation,hook-succeeded"
    );
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 600);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert!(pod.get("serviceAccountName").is_none(), "{pod}");
    assert_eq!(
        pod["volumes"],
        json!([{"name": "database-certificates", "configMap": {"name": "roots"}}])
    );
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["migrate"]));
    assert_eq!(
        container["volumeMounts"][0]["mountPath"],
        "/etc/minichat-database"
    );
    let variables: Vec<Value> = serde_json::from_value(container["env"].clone())?;
    let url = json!({"secretKeyRef": {"name": "database", "key": "uri"}});
    assert_eq!(
        variables[0],
        json!({"name": "MINICHAT_DATABASE_URL", "valueFrom": url})
    );
    let plain: Vec<_> = variables[1..]
        .iter()
        .map(|variable| {
            (
                variable["name"].as_str().unwrap(),
                variable["value"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        plain,
        [
            ("MINICHAT_DATABASE_STATEMENT_TIMEOUT_SECS", "600"),
            ("MINICHAT_LOGGING_LEVEL", "debug")
        ]
    );
    let pool = &rendered.get("Deployment", POOL)?["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], pool["image"]);
    Ok(())
}
