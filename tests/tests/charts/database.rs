//! How the chart renders `database.*` (D43).

use serde_json::{Value, json};

use crate::helm::render;

const POSTGRES: &str = "database.existingSecret=database";

/// The pods that connect to PostgreSQL.
fn pods(settings: &[&str]) -> anyhow::Result<[Value; 3]> {
    let rendered = render(&[&[POSTGRES], settings].concat())?;
    let pool = rendered.get("Deployment", "minichat-pool")?["spec"]["template"]["spec"].clone();
    let job = |name| {
        let template = &rendered.cron_job(name)?["spec"]["jobTemplate"];
        anyhow::Ok(template["spec"]["template"]["spec"].clone())
    };
    Ok([
        pool,
        job("minichat-pool-watchdog")?,
        job("minichat-pool-cleanup")?,
    ])
}

fn entry<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name)
}

/// D43: whole directories are mounted, because single mounted files are never updated.
#[test]
fn certificates_for_postgres_are_files_of_every_pod_that_connects() -> anyhow::Result<()> {
    const VOLUME: &str = "database-certificates";
    for pod in pods(&[])? {
        assert_eq!(entry(&pod["volumes"], VOLUME), None);
    }
    for (setting, source) in [
        ("existingConfigMap", json!({"configMap": {"name": "roots"}})),
        ("existingSecret", json!({"secret": {"secretName": "roots"}})),
    ] {
        for pod in pods(&[&format!("database.certificates.{setting}=roots")])? {
            let mut found = entry(&pod["volumes"], VOLUME).cloned().unwrap_or_default();
            found.as_object_mut().unwrap().remove("name");
            assert_eq!(found, source);
            let mount = entry(&pod["containers"][0]["volumeMounts"], VOLUME);
            let expected =
                json!({"name": VOLUME, "mountPath": "/etc/minichat-database", "readOnly": true});
            assert_eq!(mount, Some(&expected));
        }
    }
    Ok(())
}
