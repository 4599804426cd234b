//! The charts on a real API server. It has no node, so pods are admitted and stay pending.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use minichat_cluster::{Kubectl, OwnedApiTier};
use serde_json::{Value, json};

use crate::examples;
use crate::helm::{NAMESPACE, Rendered, chart, helm, render, render_file, render_values};

const WITHIN: Duration = Duration::from_secs(30);
const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crds/examples/scripted.yaml"
);

struct Server {
    tier: OwnedApiTier,
    kubeconfig: String,
}

impl Server {
    /// With a namespace that enforces the pod security standard `restricted`.
    fn start() -> anyhow::Result<Self> {
        let tier = OwnedApiTier::start()?;
        let kubeconfig = tier.kubeconfig().display().to_string();
        tier.kubectl().apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }))?;
        Ok(Self { tier, kubeconfig })
    }

    fn kubectl(&self) -> &Kubectl {
        self.tier.kubectl()
    }

    fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut all = arguments.to_vec();
        all.extend(["--namespace", NAMESPACE, "--kubeconfig", &self.kubeconfig]);
        helm(&all)
    }

    fn install(&self, name: &str) -> anyhow::Result<String> {
        self.helm(&["install", name, &chart(name).display().to_string()])
    }

    fn upgrade(&self, settings: &[&str]) -> anyhow::Result<String> {
        let chart = chart("minichat").display().to_string();
        let mut arguments = vec!["upgrade", "minichat", &chart];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.helm(&arguments)
    }

    fn get(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--namespace", NAMESPACE, "get", "--output=json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl().run(&all)?)?)
    }

    /// Waits until discovery lists the custom resources, which is a moment after the server serves them.
    fn await_definitions(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self
            .kubectl()
            .run(&["get", "--raw", "/apis"])?
            .contains("minichat.dev")
        {
            ensure!(started.elapsed() < WITHIN, "the definitions are not served");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the controllers have created `count` pods of `component`.
    fn await_pods(&self, component: &str, count: usize) -> anyhow::Result<()> {
        let selector = format!("--selector=app.kubernetes.io/component={component}");
        let started = Instant::now();
        loop {
            let pods = self.get(&["pods", &selector])?;
            let found = pods["items"].as_array().map_or(0, Vec::len);
            if found == count {
                return Ok(());
            }
            let events = || {
                self.kubectl()
                    .run(&["--namespace", NAMESPACE, "get", "events"])
            };
            ensure!(
                started.elapsed() < WITHIN,
                "{found} pods of {component} instead of {count}:\n{}",
                events()?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// K8S-52, K8S-70, K8S-71; checks 18 and 20 of chapter 06
#[test]
fn the_pods_of_install_and_upgrade_are_admitted_where_restricted_is_enforced() -> anyhow::Result<()>
{
    let server = Server::start()?;
    let unfit = ["run", "unfit", "--image=unfit", "--namespace", NAMESPACE];
    let refused = server.kubectl().run(&unfit).unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity"), "{refused}");

    server.install("minichat-crds")?;
    server.await_definitions()?;
    let notes = server.install("minichat")?;
    assert!(
        notes.contains("port-forward service/minichat-pool 8087"),
        "{notes}"
    );
    assert!(
        !notes.contains("The custom resources are missing"),
        "{notes}"
    );
    server.await_pods("operator", 1)?;
    server.await_pods("pool", 1)?;
    let claim = server.get(&["persistentvolumeclaim", "data-minichat-pool-0"])?;
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "2Gi");

    server.upgrade(&["database.existingSecret=database", "pool.replicaCount=2"])?;
    server.await_pods("pool", 2)?;
    let owners = server.get(&["deployments,statefulsets"])?;
    let owners: Vec<&Value> = owners["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| &object["kind"])
        .collect();
    assert_eq!(owners, ["Deployment", "Deployment"]);
    server.helm(&["rollback", "minichat", "1"])?;
    server.await_pods("pool", 1)?;
    server.get(&["statefulset", "minichat-pool"])?;
    Ok(())
}

/// The chart as it was when it made the `CronJobs` itself.
fn older_chart() -> anyhow::Result<tempfile::TempDir> {
    let older = tempfile::tempdir()?;
    let copied = std::process::Command::new("cp")
        .args([
            "-r".into(),
            chart("minichat").join("."),
            older.path().to_owned(),
        ])
        .status()?;
    ensure!(copied.success(), "the chart is not copied");
    let template = r#"apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "minichat.watchdog" . }}
  labels:
    {{- include "minichat.labels" (list . "watchdog") | nindent 4 }}
{{ pick (include "minichat.watchdogCronJob" . | fromYaml) "spec" | toYaml }}
"#;
    std::fs::write(older.path().join("templates/watchdog.yaml"), template)?;
    Ok(older)
}

/// K8S-40, K8S-70, D38: what Helm owned and what the operator makes have different names.
#[test]
fn cron_jobs_of_an_older_chart_go_with_an_upgrade_and_come_back_with_a_rollback()
-> anyhow::Result<()> {
    let server = Server::start()?;
    server.install("minichat-crds")?;
    server.await_definitions()?;
    let settings = [
        "database.existingSecret=database",
        "watchdog.schedule=0 3 1 1 *",
    ];
    let older = older_chart()?;
    let path = older.path().display().to_string();
    let mut install = vec!["install", "minichat", &path];
    for setting in &settings {
        install.extend(["--set", setting]);
    }
    server.helm(&install)?;
    let names = || {
        let found = server.get(&["cronjobs"])?;
        let items = found["items"].as_array().into_iter().flatten();
        let names = items.map(|item| item["metadata"]["name"].to_string().replace('"', ""));
        anyhow::Ok(names.collect::<Vec<_>>())
    };
    assert_eq!(names()?, ["minichat-watchdog"]);
    // As the operator would, before or after Helm deletes the other one.
    let made = render(&settings)?
        .cron_job("minichat-pool-watchdog")?
        .clone();
    server.kubectl().apply(&made)?;
    server.upgrade(&settings)?;
    assert_eq!(names()?, ["minichat-pool-watchdog"]);
    server.helm(&["rollback", "minichat", "1"])?;
    assert_eq!(names()?, ["minichat-pool-watchdog", "minichat-watchdog"]);
    Ok(())
}

/// K8S-70; check 20 of chapter 06
#[test]
fn uninstalling_both_charts_keeps_the_definitions_the_tenants_and_the_data() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.install("minichat-crds")?;
    server.install("minichat")?;
    let apply = ["apply", "--namespace", "default", "--filename", EXAMPLE];
    server.kubectl().run(&apply)?;
    server.await_pods("pool", 1)?;
    server.helm(&["uninstall", "minichat"])?;
    server.helm(&["uninstall", "minichat-crds"])?;
    let kept = [
        "get",
        "chattenants,chatquotas",
        "--namespace",
        "default",
        "--output=name",
    ];
    let kept = server.kubectl().run(&kept)?;
    let kept: Vec<&str> = kept.lines().collect();
    let (tenant, quotas) = kept.split_first().context("nothing is left")?;
    assert_eq!(*tenant, "chattenant.minichat.dev/acme");
    assert_eq!(quotas.len(), 2, "{quotas:?}");
    server.get(&["persistentvolumeclaim", "data-minichat-pool-0"])?;

    // The next installation takes over the remaining objects.
    server.install("minichat-crds")?;
    server.install("minichat")?;
    Ok(())
}

/// K8S-70
#[test]
fn without_the_custom_resources_the_notes_say_what_is_missing() -> anyhow::Result<()> {
    let server = Server::start()?;
    let notes = server.install("minichat")?;
    assert!(notes.contains("helm install minichat-crds"), "{notes}");
    Ok(())
}

/// Applies the objects without keeping them; the server refuses unknown fields.
fn try_out(server: &Server, rendered: &Rendered) -> anyhow::Result<()> {
    // The server would have to know the kinds of other projects.
    let is_known = |object: &&Value| {
        let group = object["apiVersion"].as_str().unwrap_or_default();
        !group.starts_with("gateway.") && !group.starts_with("monitoring.")
    };
    let objects: Vec<_> = rendered.all().iter().filter(is_known).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let apply = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--filename=-",
    ];
    let said = server.kubectl().run_with_input(&apply, &list.to_string())?;
    assert_eq!(said.lines().count(), objects.len(), "{said}");
    Ok(())
}

/// K8S-52, K8S-70
#[test]
fn the_api_server_accepts_every_object_of_every_example() -> anyhow::Result<()> {
    let server = Server::start()?;
    for (name, file) in examples::files()? {
        let rendered = render_file(&file, &[])?;
        try_out(&server, &rendered).with_context(|| name)?;
    }
    let everything = json!({
        "operator": {"replicaCount": 2, "extraEnv": [{"name": "A", "value": "b"}]},
        "pool": {
            "replicaCount": 2,
            "service": {
                "type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "nodePort": 30087,
                "trafficDistribution": "PreferSameZone", "externalTrafficPolicy": "Local",
                "loadBalancerClass": "example.com/internal", "loadBalancerSourceRanges": ["192.0.2.0/24"],
            },
            "tolerations": [{"key": "chat", "operator": "Exists", "effect": "NoSchedule"}],
            "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        },
        "database": {"existingSecret": "database"},
        "migration": {"mode": "Job"},
        "ingress": {"enabled": true, "className": "nginx", "tls": [{"secretName": "chat-tls"}]},
        "networkPolicy": {"egress": {"enabled": true}},
        "test": {"tenantId": "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"},
    });
    try_out(&server, &render_values(&everything, &[])?)
}

/// K8S-16, K8S-70: the cluster's own roles include the kinds, each as much as it may do with others.
#[test]
fn view_edit_and_admin_include_tenants_and_quotas() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.install("minichat-crds")?;
    server.await_definitions()?;
    for role in ["view", "edit", "admin"] {
        let bind = format!("--clusterrole={role}");
        let user = format!("--user={role}");
        let create = [
            "create",
            "rolebinding",
            role,
            &bind,
            &user,
            "--namespace",
            NAMESPACE,
        ];
        server.kubectl().run(&create)?;
    }
    let may = |user: &str, verb: &str, kind: &str, namespace: &str| {
        let (kind, subresource) = kind.split_once('/').unwrap_or((kind, ""));
        let kind = format!("{kind}.minichat.dev");
        let subresource = format!("--subresource={subresource}");
        let of = ["--as", user, "--namespace", namespace, &subresource];
        let arguments = [&["auth", "can-i", verb, &kind][..], &of].concat();
        // It ends with an error when the answer is no.
        let answer = server.kubectl().run(&arguments);
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    let started = Instant::now();
    while !may("edit", "create", "chattenants", NAMESPACE) {
        ensure!(started.elapsed() < WITHIN, "the roles are not aggregated");
        std::thread::sleep(Duration::from_millis(50));
    }
    let reads = ["get", "list", "watch"];
    let writes = ["create", "update", "patch", "delete", "deletecollection"];
    for kind in ["chattenants", "chatquotas"] {
        for user in ["view", "edit", "admin"] {
            for verb in reads {
                assert!(may(user, verb, kind, NAMESPACE), "{user}: {verb} {kind}");
            }
            for verb in writes {
                assert_eq!(
                    may(user, verb, kind, NAMESPACE),
                    user != "view",
                    "{user}: {verb} {kind}"
                );
            }
            assert!(!may(user, "get", kind, "default"), "{user} elsewhere");
            // What the operator says is for nobody to write.
            let status = format!("{kind}/status");
            assert!(!may(user, "patch", &status, NAMESPACE), "{user}: {status}");
        }
    }
    let chart = chart("minichat-crds").display().to_string();
    server.helm(&[
        "upgrade",
        "minichat-crds",
        &chart,
        "--set",
        "aggregatedRoles=false",
    ])?;
    server
        .kubectl()
        .run(&["get", "clusterrole", "minichat.dev:view"])
        .unwrap_err();
    Ok(())
}

/// K8S-70: an upgrade leaves the number of pods to the autoscaler, from the first one on.
#[test]
fn an_upgrade_does_not_fight_the_autoscaler() -> anyhow::Result<()> {
    const POSTGRES: &str = "database.existingSecret=database";
    const SCALED: &[&str] = &[POSTGRES, "pool.autoscaling.enabled=true"];
    let server = Server::start()?;
    server.install("minichat-crds")?;
    server.install("minichat")?;
    let replicas =
        || anyhow::Ok(server.get(&["deployment", "minichat-pool"])?["spec"]["replicas"].clone());
    server.upgrade(&[POSTGRES, "pool.replicaCount=4"])?;
    assert_eq!(replicas()?, 4);
    server.upgrade(SCALED)?;
    assert_eq!(replicas()?, 4);
    // As the autoscaler does it.
    let scale = [
        "scale",
        "deployment/minichat-pool",
        "--replicas=6",
        "--namespace",
        NAMESPACE,
    ];
    server.kubectl().run(&scale)?;
    server.upgrade(&[SCALED, &["pool.podAnnotations.changed=yes"]].concat())?;
    assert_eq!(replicas()?, 6);
    server.upgrade(&[POSTGRES, "pool.replicaCount=3"])?;
    assert_eq!(replicas()?, 3);
    Ok(())
}
