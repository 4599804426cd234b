//! What all pods of the chart have in common, and what can be added to them.

use serde_json::{Value, json};

use crate::helm::{Rendered, render, render_values};

/// Values with which every pod of the chart is rendered, on PostgreSQL.
fn on_postgres() -> Value {
    json!({
        "database": {"existingSecret": "database"},
        "migration": {"mode": "Job"},
        "test": {"tenantId": "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"},
    })
}

fn with(mut values: Value, more: &Value) -> Value {
    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }
    merge(&mut values, more);
    values
}

fn rendered(more: &Value) -> anyhow::Result<Rendered> {
    render_values(&with(on_postgres(), more), &[])
}

fn container<'a>(rendered: &'a Rendered, component: &str) -> &'a Value {
    let is_its =
        |pod: &&&Value| pod["metadata"]["labels"]["app.kubernetes.io/component"] == component;
    let pods = rendered.pods();
    pods.iter()
        .find(is_its)
        .map_or(&Value::Null, |pod| &pod["spec"]["containers"][0])
}

/// K8S-52: where the cluster chooses the ids, as `OpenShift` does, `null` takes them away and nothing else.
#[test]
fn null_takes_a_field_from_the_security_context_of_every_pod() -> anyhow::Result<()> {
    let ids = ["runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy"];
    let all = rendered(&json!({}))?;
    assert_eq!(all.pods().len(), 6);
    for pod in all.pod_specs() {
        for id in ids {
            assert!(!pod["securityContext"][id].is_null(), "{id}: {pod}");
        }
    }
    let none: Value = ids
        .iter()
        .map(|id| ((*id).to_owned(), Value::Null))
        .collect();
    let without = rendered(&json!({"podSecurityContext": none}))?;
    let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    for pod in without.pod_specs() {
        assert_eq!(pod["securityContext"], context);
    }
    let neither = json!({"podSecurityContext": null, "containerSecurityContext": null});
    for pod in rendered(&neither)?.pod_specs() {
        assert!(pod.get("securityContext").is_none(), "{pod}");
        assert!(
            pod["containers"][0].get("securityContext").is_none(),
            "{pod}"
        );
    }
    Ok(())
}

/// K8S-70
#[test]
fn each_component_takes_variables_volumes_and_mounts_of_its_own() -> anyhow::Result<()> {
    let before = rendered(&json!({}))?;
    for component in ["operator", "pool", "watchdog", "cleanup", "migration"] {
        let variable = json!({"name": "HTTPS_PROXY", "value": "http://proxy:3128"});
        let volume = json!({"name": "scratch", "emptyDir": {"medium": "Memory"}});
        let mount = json!({"name": "scratch", "mountPath": "/scratch", "readOnly": true});
        let extras = json!({
            "extraEnv": [variable], "extraVolumes": [volume], "extraVolumeMounts": [mount],
        });
        let after = rendered(&json!({component: extras}))?;
        for pod in after.pods() {
            let its = &pod["metadata"]["labels"]["app.kubernetes.io/component"];
            let holds = |list: &Value, entry: &Value| {
                list.as_array().is_some_and(|list| list.contains(entry))
            };
            let container = &pod["spec"]["containers"][0];
            let is_its = its == component;
            assert_eq!(
                holds(&container["env"], &variable),
                is_its,
                "{component}: {its}"
            );
            assert_eq!(
                holds(&pod["spec"]["volumes"], &volume),
                is_its,
                "{component}: {its}"
            );
            assert_eq!(
                holds(&container["volumeMounts"], &mount),
                is_its,
                "{component}: {its}"
            );
        }
        let count = |rendered, field: &str| {
            container(rendered, component)[field]
                .as_array()
                .map_or(0, Vec::len)
        };
        for field in ["env", "volumeMounts"] {
            assert_eq!(
                count(&after, field),
                count(&before, field) + 1,
                "{component}: {field}"
            );
        }
    }
    Ok(())
}

/// K8S-70: a variable given twice would be decided by its place, a volume refused by the API server.
#[test]
fn what_the_chart_sets_itself_cannot_be_added() {
    for (component, variable) in [
        ("operator", "MINICHAT_OPERATOR_POOL"),
        ("pool", "MINICHAT_DATABASE_URL"),
        ("watchdog", "MINICHAT_JOB_LEASE"),
        ("cleanup", "MINICHAT_SOURCE_POOL"),
        ("migration", "MINICHAT_DATABASE_URL"),
    ] {
        let extra = json!({component: {"extraEnv": [{"name": variable, "value": "x"}]}});
        let refused = rendered(&extra).unwrap_err().to_string();
        let expected = format!("{component}.extraEnv: the chart sets {variable} itself");
        assert!(refused.contains(&expected), "{refused}");
    }
    for component in ["pool", "watchdog", "cleanup"] {
        let extra = json!({component: {"extraVolumes": [{"name": "config", "emptyDir": {}}]}});
        let refused = rendered(&extra).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("{component}.extraVolumes: ")),
            "{refused}"
        );
    }
}

/// K8S-70, K8S-73
#[test]
fn an_image_has_a_tag_of_its_own_or_a_digest() -> anyhow::Result<()> {
    let images = |settings: &[&str]| {
        let rendered = render(&[&["database.existingSecret=database"], settings].concat())?;
        let of = |component| container(&rendered, component)["image"].clone();
        let pool = of("pool");
        assert_eq!(of("watchdog"), pool);
        assert_eq!(of("cleanup"), pool);
        anyhow::Ok([of("operator"), pool])
    };
    let version = env!("CARGO_PKG_VERSION");
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let own = [
        format!("minichat-operator:{version}"),
        format!("minichat-dataplane:{version}"),
    ];
    assert_eq!(images(&[])?, own.map(Value::from));
    assert_eq!(
        images(&[
            "image.registry=registry.example.com/chat",
            "image.tag=one",
            "pool.image.tag=two"
        ])?,
        [
            "registry.example.com/chat/minichat-operator:one",
            "registry.example.com/chat/minichat-dataplane:two",
        ]
    );
    let pinned = format!("operator.image.digest={digest}");
    assert_eq!(
        images(&[&pinned, "operator.image.tag=ignored"])?,
        [
            format!("minichat-operator@{digest}"),
            format!("minichat-dataplane:{version}")
        ]
    );
    let refused = render(&["pool.image.digest=sha256:short"]).unwrap_err();
    assert!(
        refused.to_string().contains("/pool/image/digest"),
        "{refused}"
    );
    Ok(())
}

/// K8S-70
#[test]
fn labels_and_annotations_of_pods_and_of_what_makes_them() -> anyhow::Result<()> {
    for component in ["operator", "pool", "watchdog", "cleanup"] {
        let own = json!({
            "labels": {"team": "chat"}, "annotations": {"note": "outer"},
            "podLabels": {"sidecar.istio.io/inject": "false"}, "podAnnotations": {"note": "inner"},
        });
        let rendered = rendered(&json!({component: own}))?;
        let makes_pods = |object: &&Value| {
            let label = &object["metadata"]["labels"]["app.kubernetes.io/component"];
            *label == component
                && ["Deployment", "CronJob"]
                    .iter()
                    .any(|kind| object["kind"] == *kind)
        };
        let mut all = rendered.all().iter().chain(rendered.managed());
        let outer = all.find(makes_pods).unwrap();
        assert_eq!(outer["metadata"]["labels"]["team"], "chat");
        assert_eq!(outer["metadata"]["annotations"]["note"], "outer");
        for pod in rendered.pods() {
            let metadata = &pod["metadata"];
            let is_its = metadata["labels"]["app.kubernetes.io/component"] == component;
            let expected = |value: &str| if is_its { json!(value) } else { Value::Null };
            let label = &metadata["labels"]["sidecar.istio.io/inject"];
            assert_eq!(*label, expected("false"));
            assert_eq!(metadata["annotations"]["note"], expected("inner"));
            assert!(metadata["labels"]["team"].is_null());
        }
    }
    Ok(())
}

/// K8S-51, K8S-71
#[test]
fn pods_are_spread_over_zones_and_nodes_by_their_own_labels() -> anyhow::Result<()> {
    let rendered = rendered(&json!({}))?;
    for component in ["operator", "pool"] {
        let name = format!("minichat-{component}");
        let deployment = &rendered.get("Deployment", &name)?["spec"];
        let constraints = &deployment["template"]["spec"]["topologySpreadConstraints"];
        let keys: Vec<_> = constraints.as_array().into_iter().flatten().collect();
        assert_eq!(keys.len(), 2);
        for (constraint, key) in keys
            .iter()
            .zip(["topology.kubernetes.io/zone", "kubernetes.io/hostname"])
        {
            assert_eq!(
                **constraint,
                json!({
                    "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": deployment["selector"], "matchLabelKeys": ["pod-template-hash"],
                })
            );
        }
    }
    let none = json!({"pool": {"topologySpreadConstraints": []}});
    let pool = rendered_pool(&none)?;
    assert!(pool.get("topologySpreadConstraints").is_none(), "{pool}");
    let own = json!([{
        "maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"team": "chat"}},
    }]);
    let pool = rendered_pool(&json!({"pool": {"topologySpreadConstraints": own}}))?;
    assert_eq!(pool["topologySpreadConstraints"], own);
    Ok(())
}

fn rendered_pool(more: &Value) -> anyhow::Result<Value> {
    let rendered = rendered(more)?;
    Ok(rendered.get("Deployment", "minichat-pool")?["spec"]["template"]["spec"].clone())
}

/// K8S-51
#[test]
fn the_update_strategy_of_both_deployments_is_a_value() -> anyhow::Result<()> {
    for component in ["operator", "pool"] {
        let strategy = |value: Value| {
            let rendered = rendered(&json!({component: {"strategy": value}}))?;
            let deployment = rendered.get("Deployment", &format!("minichat-{component}"))?;
            anyhow::Ok(deployment["spec"]["strategy"].clone())
        };
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"}});
        assert_eq!(
            strategy(json!({"rollingUpdate": {"maxSurge": "50%"}}))?,
            rolling
        );
        assert_eq!(
            strategy(json!({"type": "Recreate"}))?,
            json!({"type": "Recreate"})
        );
        assert_eq!(strategy(Value::Null)?, Value::Null);
    }
    Ok(())
}

/// K8S-71
#[test]
fn the_file_of_sqlite_may_be_on_a_claim_that_exists() -> anyhow::Result<()> {
    let rendered = render(&["pool.persistence.existingClaim=chats"])?;
    let set = &rendered.get("StatefulSet", "minichat-pool")?["spec"];
    assert!(set.get("volumeClaimTemplates").is_none(), "{set}");
    let pod = &set["template"]["spec"];
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "chats"}});
    assert!(
        pod["volumes"].as_array().unwrap().contains(&volume),
        "{pod}"
    );
    let mount = json!({"name": "data", "mountPath": "/var/lib/minichat"});
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert!(mounts.as_array().unwrap().contains(&mount), "{pod}");
    let annotated = render(&["pool.persistence.annotations.keep=yes"])?;
    let claim = &annotated.get("StatefulSet", "minichat-pool")?["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["annotations"], json!({"keep": "yes"}));
    Ok(())
}
