//! What the charts render.

use std::collections::BTreeSet;

use anyhow::Context as _;
use minichat_config::ProcessConfig;
use minichat_config::process::{Allowed, Auth};
use serde_json::{Value, json};

use crate::helm::{
    NAMESPACE, Rendered, chart, document, helm, render, render_chart, render_release,
};

const ON_POSTGRES: &[&str] = &["database.existingSecret=database", "pool.replicaCount=2"];
/// Settings with which every kind of pod is rendered.
const POD_KINDS: [&[&str]; 2] = [
    &["test.tenantId=5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"],
    ON_POSTGRES,
];
const POOL: &str = "minichat-pool";
const OPERATOR: &str = "minichat-operator";
const WATCHDOG: &str = "minichat-watchdog";
const CLEANUP: &str = "minichat-cleanup";
/// The `CronJobs`, which the operator makes.
const WATCHDOG_JOB: &str = "minichat-pool-watchdog";
const CLEANUP_JOB: &str = "minichat-pool-cleanup";

/// K8S-70
#[test]
fn both_charts_pass_a_strict_lint() -> anyhow::Result<()> {
    for name in ["minichat", "minichat-crds"] {
        helm(&["lint", "--strict", &chart(name).display().to_string()])?;
    }
    Ok(())
}

/// K8S-70, K8S-73
#[test]
fn both_charts_have_the_version_of_the_programs() -> anyhow::Result<()> {
    for name in ["minichat", "minichat-crds"] {
        let document = document(chart(name).join("Chart.yaml"))?;
        for field in ["version", "appVersion"] {
            assert_eq!(
                document[field],
                env!("CARGO_PKG_VERSION"),
                "{name}: {field}"
            );
        }
    }
    Ok(())
}

/// K8S-71
#[test]
fn without_values_the_pool_is_one_pod_on_sqlite_with_a_volume() -> anyhow::Result<()> {
    let rendered = render(&[])?;
    assert_eq!(rendered.names("Deployment"), [OPERATOR]);
    let pool = &rendered.get("StatefulSet", POOL)?["spec"];
    assert_eq!(pool["replicas"], 1);
    let claim = &pool["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "data");
    let container = &pool["template"]["spec"]["containers"][0];
    assert_eq!(
        container["env"][1],
        json!({"name": "MINICHAT_DATABASE_URL", "value": "sqlite:///var/lib/minichat/minichat.db"})
    );
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(&json!({"name": "data", "mountPath": "/var/lib/minichat"})));
    assert!(rendered.names("PodDisruptionBudget").is_empty());
    Ok(())
}

/// K8S-71: one process owns the file.
#[test]
fn sqlite_with_two_replicas_is_refused_with_what_to_set_instead() {
    let refused = render(&["pool.replicaCount=2"]).unwrap_err().to_string();
    assert!(refused.contains("set database.existingSecret"), "{refused}");
}

/// CONT-172: seconds that leave the clean-up no time to work, or kill it at work.
#[test]
fn a_clean_up_that_could_do_nothing_is_refused_with_what_to_set_instead() -> anyhow::Result<()> {
    let call = "pool.config.cleanup_worker.call_timeout_secs=120";
    for (values, key, least) in [
        (
            ["cleanup.timeBudgetSeconds=30", ""],
            "timeBudgetSeconds",
            "more than 30",
        ),
        (
            ["cleanup.timeBudgetSeconds=120", call],
            "timeBudgetSeconds",
            "more than 120",
        ),
        (
            ["cleanup.timeBudgetSeconds=240", call],
            "activeDeadlineSeconds",
            "more than 360",
        ),
        (
            ["cleanup.activeDeadlineSeconds=270", ""],
            "activeDeadlineSeconds",
            "more than 270",
        ),
    ] {
        let values = ON_POSTGRES.iter().copied().chain(values);
        let values: Vec<_> = values.filter(|value| !value.is_empty()).collect();
        let refused = render(&values)
            .err()
            .with_context(|| format!("{values:?}"))?;
        let refused = refused.to_string();
        assert!(refused.contains(&format!("cleanup.{key}: ")), "{refused}");
        assert!(refused.contains(&format!("set {least}")), "{refused}");
        // On SQLite there is no such job.
        render(&values[ON_POSTGRES.len()..])?;
    }
    let enough = [
        "cleanup.timeBudgetSeconds=31",
        "cleanup.activeDeadlineSeconds=62",
    ];
    render(&[ON_POSTGRES, &enough].concat())?;
    Ok(())
}

/// K8S-51, K8S-71
#[test]
fn on_postgres_the_pool_is_a_deployment_that_rolls_without_a_gap() -> anyhow::Result<()> {
    let rendered = render(ON_POSTGRES)?;
    assert!(rendered.names("StatefulSet").is_empty());
    let pool = &rendered.get("Deployment", POOL)?["spec"];
    assert_eq!(pool["replicas"], 2);
    assert_eq!(pool["minReadySeconds"], 5);
    let rolling = json!({"maxUnavailable": 0, "maxSurge": 1});
    assert_eq!(
        pool["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": rolling})
    );
    let url = &pool["template"]["spec"]["containers"][0]["env"][1];
    let reference = json!({"secretKeyRef": {"name": "database", "key": "url"}});
    assert_eq!(url["valueFrom"], reference);
    let budget = &rendered.get("PodDisruptionBudget", POOL)?["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    Ok(())
}

/// TURN-59, TURN-61, TURN-64, K8S-40, K8S-41, K8S-71
#[test]
fn on_postgres_a_watchdog_looks_every_minute_and_never_twice_at_once() -> anyhow::Result<()> {
    assert!(render(&[])?.cron_jobs().is_empty());
    let disabled = "pool.config.orphan_watchdog.enabled=false";
    let disabled_watchdog = render(&[ON_POSTGRES[0], disabled])?;
    assert_eq!(disabled_watchdog.cron_jobs(), [CLEANUP_JOB]);

    let rendered = render(ON_POSTGRES)?;
    assert!(
        rendered.names("CronJob").is_empty(),
        "the operator makes them"
    );
    let cron = &rendered.cron_job(WATCHDOG_JOB)?["spec"];
    assert_eq!(cron["schedule"], "* * * * *");
    assert_eq!(cron["concurrencyPolicy"], "Forbid");
    assert_eq!(cron["startingDeadlineSeconds"], 120);
    // K8S-44: the operator counts them, although it is away for an hour.
    for ended in ["successful", "failed"] {
        let kept = cron[format!("{ended}JobsHistoryLimit")].as_u64();
        assert!(kept >= Some(120), "{ended}: {kept:?}");
    }
    let job = &cron["jobTemplate"]["spec"];
    assert_eq!(job["activeDeadlineSeconds"], 50);
    assert_eq!(job["backoffLimit"], 0);
    assert_eq!(job["ttlSecondsAfterFinished"], 7200);
    assert_eq!(job["podReplacementPolicy"], "Failed");
    let pod = &job["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    let container = &pod["containers"][0];
    let pool = &rendered.get("Deployment", POOL)?["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], pool["image"]);
    // Only the database and a Lease: no shared secret, no tenant.
    let lease = "minichat-orphan-watchdog";
    let variables = json!([pool["env"][1], {"name": "MINICHAT_JOB_LEASE", "value": lease}]);
    assert_eq!(container["env"], variables);
    assert_eq!(pod["serviceAccountName"], WATCHDOG);
    assert_eq!(
        rendered.get("Role", WATCHDOG)?["rules"],
        json!([
                {
                "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "resourceNames": [lease], "verbs": ["get", "patch"],
            },
        ])
    );
    assert_eq!(pod["volumes"].as_array().map(Vec::len), Some(1));

    let long = "fullnameOverride=a-name-that-is-as-long-as-names-of-releases";
    let rendered = render(&[ON_POSTGRES[0], long])?;
    let another = "fullnameOverride=a-name-that-is-as-long-as-names-of-others";
    let another = render(&[ON_POSTGRES[0], another])?;
    let names = [rendered.cron_jobs(), another.cron_jobs()].concat();
    assert!(names.iter().all(|name| name.len() <= 52), "{names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 4, "{names:?}");
    Ok(())
}

/// K8S-50
#[test]
fn a_pod_gets_as_long_as_the_drain_may_take_and_a_margin() -> anyhow::Result<()> {
    let grace = |kind: &str, settings: &[&str]| -> anyhow::Result<Value> {
        let rendered = render(settings)?;
        let pool = rendered.get(kind, POOL)?;
        Ok(pool["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone())
    };
    assert_eq!(grace("StatefulSet", &[])?, 10 + 20 + 15);
    assert_eq!(grace("Deployment", ON_POSTGRES)?, 10 + 300 + 15);
    let own = [
        "pool.config.drain.min_secs=1",
        "pool.config.drain.max_secs=30",
    ];
    assert_eq!(grace("StatefulSet", &own)?, 1 + 30 + 15);
    assert_eq!(
        grace("Deployment", &[ON_POSTGRES, &own].concat())?,
        1 + 30 + 15
    );
    let none = [
        "pool.config.drain.min_secs=0",
        "pool.config.drain.max_secs=0",
    ];
    assert_eq!(grace("StatefulSet", &none)?, 15);
    Ok(())
}

/// K8S-52
#[test]
fn every_pod_fits_a_restricted_namespace_and_has_requests_but_no_cpu_limit() -> anyhow::Result<()> {
    for settings in POD_KINDS {
        let rendered = render(settings)?;
        assert!(rendered.pod_specs().len() >= 3);
        for pod in rendered.pod_specs() {
            let context = &pod["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{pod}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{pod}");
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
                let resources = &container["resources"];
                for resource in ["cpu", "memory"] {
                    assert!(resources["requests"][resource].is_string(), "{container}");
                }
                assert!(resources["limits"].get("cpu").is_none(), "{container}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_pod_asks_for_a_name_again_after_a_second_unless_told_otherwise() -> anyhow::Result<()> {
    let second = json!({"name": "timeout", "value": "1"});
    for settings in POD_KINDS {
        let pods = render(settings)?;
        assert!(pods.pod_specs().len() >= 3);
        for pod in pods.pod_specs() {
            assert_eq!(pod["dnsConfig"]["options"][0], second, "{pod}");
        }
        let pods = render(&[settings, &["dnsConfig=null"][..]].concat())?;
        for pod in pods.pod_specs() {
            assert!(pod["dnsConfig"].is_null(), "{pod}");
        }
    }
    Ok(())
}

/// K8S-16
#[test]
fn a_list_of_namespaces_gets_roles_instead_of_a_cluster_role() -> anyhow::Result<()> {
    let everywhere = render(&[])?;
    assert_eq!(everywhere.names("ClusterRole"), ["chat:minichat-operator"]);
    let listed = render(&["operator.namespaces={red,blue}"])?;
    assert!(listed.names("ClusterRole").is_empty());
    assert!(listed.names("ClusterRoleBinding").is_empty());
    let namespaces: Vec<&Value> = listed
        .all()
        .iter()
        .filter(|object| object["metadata"]["name"] == "chat:minichat-operator")
        .map(|object| &object["metadata"]["namespace"])
        .collect();
    assert_eq!(namespaces, ["red", "blue", "red", "blue"]);
    let cluster_wide = &everywhere.get("ClusterRole", "chat:minichat-operator")?["rules"];
    let per_namespace = &listed.get("Role", "chat:minichat-operator")?["rules"];
    assert_eq!(cluster_wide, per_namespace);
    Ok(())
}

/// D37: objects outside the release's namespace have the namespace in their
/// names; objects inside have the release or the pool.
#[test]
fn two_releases_have_no_object_in_common() -> anyhow::Result<()> {
    let names = |release: &str, namespace: &str, pool: &str| {
        let pool = format!("pool.name={pool}");
        let settings = [pool.as_str(), "operator.namespaces={red}", ON_POSTGRES[0]];
        let rendered = render_release(release, namespace, &settings)?;
        let name = |object: &Value| {
            let metadata = &object["metadata"];
            [&object["kind"], &metadata["namespace"], &metadata["name"]].map(Value::to_string)
        };
        let objects = rendered.all().iter().chain(rendered.managed()).map(name);
        anyhow::Ok(objects.collect::<BTreeSet<_>>())
    };
    let first = names("minichat", "chat", "a")?;
    for other in [
        names("minichat", "other", "a")?,
        names("second", "chat", "b")?,
        names("chat", "minichat", "b")?,
    ] {
        let common: Vec<_> = first.intersection(&other).collect();
        assert!(common.is_empty(), "{common:?}");
    }
    let lease = |pool: &str| {
        let rendered = render(&[&format!("pool.name={pool}")])?;
        let rules = rendered.get("Role", OPERATOR)?["rules"].clone();
        let rules = rules.as_array().cloned().unwrap_or_default();
        let election = rules
            .into_iter()
            .find(|rule| rule["resources"][0] == "leases" && !rule["resourceNames"].is_null());
        anyhow::Ok(election.unwrap_or_default()["resourceNames"].clone())
    };
    assert_eq!(lease("a")?, json!(["minichat-operator-a"]));
    Ok(())
}

/// K8S-16, K8S-21
#[test]
fn the_pool_may_read_secrets_of_its_namespace_and_nothing_else() -> anyhow::Result<()> {
    let rendered = render(&[])?;
    let role = rendered.get("Role", POOL)?;
    assert_eq!(role["metadata"]["namespace"], NAMESPACE);
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}])
    );
    let account = json!({"kind": "ServiceAccount", "name": POOL, "namespace": NAMESPACE});
    let bindings = rendered.all().iter().filter(|object| {
        object["subjects"]
            .as_array()
            .is_some_and(|subjects| subjects.contains(&account))
    });
    let bound: Vec<&Value> = bindings
        .map(|binding| &binding["roleRef"]["name"])
        .collect();
    assert_eq!(bound, [POOL]);
    Ok(())
}

/// K8S-13
#[test]
fn every_object_has_the_usual_labels_and_the_common_ones() -> anyhow::Result<()> {
    for object in render(&["commonLabels.team=chat"])?.all() {
        let labels = &object["metadata"]["labels"];
        for label in [
            "name",
            "instance",
            "component",
            "part-of",
            "managed-by",
            "version",
        ] {
            let label = format!("app.kubernetes.io/{label}");
            assert!(labels[&label].is_string(), "{label} of {object}");
        }
        assert_eq!(labels["team"], "chat");
    }
    Ok(())
}

/// The data plane accepts the configuration in the `ConfigMap`.
#[test]
fn the_data_plane_accepts_the_default_configuration() -> anyhow::Result<()> {
    let body = ["pool.config.server.body_limit_bytes=16777216"];
    let own = [&body[..], &["pool.config.drain.max_secs=7"]].concat();
    // D50: the drain of the only pod is short.
    for (settings, max_secs) in [
        (body.to_vec(), 20),
        ([ON_POSTGRES, &body].concat(), 300),
        (own, 7),
    ] {
        let rendered = render(&settings)?;
        let text = rendered.get("ConfigMap", POOL)?["data"]["config.yaml"].clone();
        let config = ProcessConfig::from_yaml(text.as_str().unwrap_or_default(), []);
        let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
        assert_eq!(config.drain.min.as_secs(), 10);
        assert_eq!(config.drain.max.as_secs(), max_secs);
        assert_eq!(config.server.body_limit_bytes, 16_777_216);
    }
    Ok(())
}

/// K8S-70
#[test]
fn the_definitions_stay_when_their_chart_goes() -> anyhow::Result<()> {
    let rendered = render_chart("minichat-crds", &[])?;
    let mut names = rendered.names("CustomResourceDefinition");
    names.sort();
    assert_eq!(
        names,
        ["chatquotas.minichat.dev", "chattenants.minichat.dev"]
    );
    let definitions = rendered.all().iter();
    for definition in definitions.filter(|object| object["kind"] == "CustomResourceDefinition") {
        let policy = &definition["metadata"]["annotations"]["helm.sh/resource-policy"];
        assert_eq!(policy, "keep");
        let name = definition["metadata"]["name"].as_str().unwrap();
        let file = format!(
            "{}/../crds/manifests/{name}.yaml",
            env!("CARGO_MANIFEST_DIR")
        );
        let committed = document(file)?;
        assert_eq!(definition["spec"], committed["spec"], "{name}");
    }
    Ok(())
}

/// PLAT-130, API-28: the pool's issuer and origins come from the values. The
/// chart's test needs a token then.
#[test]
fn bearer_tokens_and_origins_are_values_of_the_pool() -> anyhow::Result<()> {
    let tenant = "test.tenantId=5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";
    let settings = [
        "pool.config.auth.mode=oidc",
        "pool.config.auth.issuer=https://login.example.com",
        "pool.config.auth.audience=minichat",
        "pool.config.server.cors.enabled=true",
        "pool.config.server.cors.allowed_origins={https://chat.example.com}",
        tenant,
    ];
    let rendered = render(&settings)?;
    let text = rendered.get("ConfigMap", POOL)?["data"]["config.yaml"].clone();
    let config = ProcessConfig::from_yaml(text.as_str().unwrap_or_default(), []);
    let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let Auth::Oidc(Some(issuer)) = config.auth else {
        panic!("{:?}", config.auth);
    };
    assert_eq!(issuer.issuer, "https://login.example.com");
    let origins = config.server.cors.unwrap().origins;
    let page = "https://chat.example.com".to_owned();
    assert_eq!(origins, Allowed::Only(vec![page]));
    let tests = |rendered: &Rendered| rendered.names("Pod").len();
    assert_eq!((tests(&rendered), tests(&render(&[tenant])?)), (0, 1));
    let secret = "test.tokenSecret.existingSecret=token";
    let rendered = render(&[&settings[..], &[secret]].concat())?;
    let container = &rendered.get("Pod", "minichat-test")?["spec"]["containers"][0];
    let reference = json!({"secretKeyRef": {"name": "token", "key": "token"}});
    let variable = json!({"name": "MINICHAT_TEST_TOKEN", "valueFrom": reference});
    assert_eq!(container["env"], json!([variable]));
    let header = "--header=Authorization: Bearer $(MINICHAT_TEST_TOKEN)";
    let url = "--url=http://minichat-pool:8087/mini-chat/v1";
    assert_eq!(container["args"], json!(["ask", url, header, "Hello"]));
    Ok(())
}

/// A variable of the container of the Deployment `name`.
fn variable(rendered: &Rendered, name: &str, variable: &str) -> anyhow::Result<Value> {
    let pod = &rendered.get("Deployment", name)?["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array();
    let found = variables
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == variable);
    Ok(found.map_or(Value::Null, |entry| entry["value"].clone()))
}

/// CONT-170, CONT-172, K8S-40, K8S-41, K8S-71
#[test]
fn on_postgres_a_job_cleans_up_with_the_tenants_of_the_pool() -> anyhow::Result<()> {
    assert!(render(&[])?.cron_jobs().is_empty());
    let disabled = render(&[ON_POSTGRES[0], "pool.config.cleanup_worker.enabled=false"])?;
    assert_eq!(disabled.cron_jobs(), [WATCHDOG_JOB]);

    let rendered = render(&[ON_POSTGRES[0], "outbound.proxy=http://proxy:3128"])?;
    let cron = &rendered.cron_job(CLEANUP_JOB)?["spec"];
    assert_eq!(cron["schedule"], "*/5 * * * *");
    assert_eq!(cron["concurrencyPolicy"], "Forbid");
    assert_eq!(cron["startingDeadlineSeconds"], 600);
    let job = &cron["jobTemplate"]["spec"];
    assert_eq!(job["backoffLimit"], 0);
    let pod = &job["template"]["spec"];
    let container = &pod["containers"][0];
    let budget = 240;
    let config = &rendered.get("ConfigMap", POOL)?["data"]["config.yaml"];
    let config = ProcessConfig::from_yaml(config.as_str().unwrap_or_default(), []);
    let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let call = i64::try_from(config.cleanup_worker.call_timeout.as_secs())?;
    assert!(job["activeDeadlineSeconds"].as_i64() > Some(budget + call));
    assert!(pod["terminationGracePeriodSeconds"].as_i64() > Some(call));
    let arguments = [
        "cleanup".to_owned(),
        "--config=/etc/minichat/config.yaml".to_owned(),
        format!("--time-budget={budget}"),
    ];
    assert_eq!(container["args"], json!(arguments));
    let pool = &rendered.get("Deployment", POOL)?["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], pool["image"]);
    assert_eq!(container["env"], pool["env"]);
    assert_eq!(container["volumeMounts"], pool["volumeMounts"]);
    assert_eq!(pod["serviceAccountName"], CLEANUP);
    let rules = |role| anyhow::Ok(rendered.get("Role", role)?["rules"].clone());
    assert_eq!(rules(CLEANUP)?, rules(POOL)?);
    Ok(())
}

/// TURN-64, K8S-7; check 62 of chapter 02, check 16 of chapter 06
#[test]
fn the_operator_is_told_who_looks_for_turns_that_were_left_running() -> anyhow::Result<()> {
    let watchdog_of = |settings: &[&str]| {
        let rendered = render(settings)?;
        let cron = rendered.cron_job(WATCHDOG_JOB);
        let is_suspended = cron.ok().map(|cron| cron["spec"]["suspend"].clone());
        let mode = variable(&rendered, OPERATOR, "MINICHAT_OPERATOR_WATCHDOG")?;
        anyhow::Ok((mode, is_suspended))
    };
    let disabled = "pool.config.orphan_watchdog.enabled=false";
    let suspended = "watchdog.suspend=true";
    let postgres = ON_POSTGRES[0];
    for (settings, mode, is_suspended) in [
        (&[][..], "in-process", None),
        (&[suspended], "in-process", None),
        (&[disabled], "disabled", None),
        (&[postgres], "jobs", Some(false)),
        (&[postgres, suspended], "suspended", Some(true)),
        (&[postgres, disabled], "disabled", None),
        (&[postgres, disabled, suspended], "disabled", None),
    ] {
        let wanted = (json!(mode), is_suspended.map(Value::Bool));
        assert_eq!(watchdog_of(settings)?, wanted, "{settings:?}");
    }
    let missed = "MINICHAT_OPERATOR_WATCHDOG_MISSED_AFTER_SECS";
    for (settings, seconds) in [
        (&[postgres][..], "300"),
        (&[postgres, "watchdog.missedAfterSeconds=604800"], "604800"),
    ] {
        assert_eq!(variable(&render(settings)?, OPERATOR, missed)?, seconds);
    }
    Ok(())
}

/// K8S-14, K8S-16, K8S-20
#[test]
fn the_operator_is_told_what_the_pool_is_told() -> anyhow::Result<()> {
    let rendered = render(&[
        "operator.replicaCount=2",
        "operator.namespaces={red,blue}",
        "pool.name=fast",
        "pool.config.provider_http.allow_http=true",
        "database.existingSecret=database",
    ])?;
    let env = |name: &str, of: &str| variable(&rendered, name, of);
    assert_eq!(env(OPERATOR, "MINICHAT_OPERATOR_POOL")?, "fast");
    assert_eq!(env(POOL, "MINICHAT_SOURCE_POOL")?, "fast");
    assert_eq!(env(OPERATOR, "MINICHAT_OPERATOR_NAMESPACE")?, NAMESPACE);
    assert_eq!(
        env(OPERATOR, "MINICHAT_OPERATOR_WATCH_NAMESPACES")?,
        "red,blue"
    );
    assert_eq!(env(OPERATOR, "MINICHAT_OPERATOR_ALLOW_HTTP")?, "true");
    assert_eq!(
        env(OPERATOR, "MINICHAT_OPERATOR_MANAGED_CONFIG_MAP")?,
        "minichat-managed"
    );
    assert_eq!(
        env(OPERATOR, "MINICHAT_OPERATOR_MANAGED_DIR")?,
        "/etc/minichat-managed"
    );
    let pool = &rendered.get("Deployment", POOL)?["spec"]["template"]["metadata"]["labels"];
    let job = &rendered.cron_job(WATCHDOG_JOB)?["spec"]["jobTemplate"]["spec"];
    let job = &job["template"]["metadata"]["labels"];
    let cleanup = &rendered.cron_job(CLEANUP_JOB)?["spec"]["jobTemplate"]["spec"];
    let cleanup = &cleanup["template"]["metadata"]["labels"];
    for (variable, selected, others) in [
        ("POD", pool, job),
        ("JOB", job, cleanup),
        ("CLEANUP", cleanup, job),
    ] {
        let selector = env(OPERATOR, &format!("MINICHAT_OPERATOR_{variable}_SELECTOR"))?;
        let selector = selector.as_str().unwrap_or_default();
        let has = |labels: &Value| {
            let mut pairs = selector.split(',').filter_map(|pair| pair.split_once('='));
            pairs.all(|(label, value)| labels[label] == value)
        };
        assert!(selector.contains('=') && has(selected), "{selector}");
        assert!(!has(others), "{selector}");
    }
    Ok(())
}
