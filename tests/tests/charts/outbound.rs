//! How the chart renders `outbound.*` and `networkPolicy.*` (D47, D48).

use minichat_config::{AllowPrivate, ProcessConfig};
use serde_json::{Value, json};

use crate::helm::{Rendered, render};

const POOL: &str = "minichat-pool";
const OPERATOR: &str = "minichat-operator";
const CLEANUP: &str = "minichat-cleanup";
const WATCHDOG: &str = "minichat-watchdog";
const PROXY: &str = "MINICHAT_OUTBOUND_PROXY";

fn config(rendered: &Rendered) -> anyhow::Result<ProcessConfig> {
    let text = &rendered.get("ConfigMap", POOL)?["data"]["config.yaml"];
    let config = ProcessConfig::from_yaml(text.as_str().unwrap_or_default(), []);
    config.map_err(|faults| anyhow::anyhow!("{faults}"))
}

fn pod(rendered: &Rendered) -> anyhow::Result<&Value> {
    Ok(&rendered.get("StatefulSet", POOL)?["spec"]["template"]["spec"])
}

fn entry<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name)
}

fn told_the_operator(rendered: &Rendered) -> anyhow::Result<Value> {
    let pod = &rendered.get("Deployment", OPERATOR)?["spec"]["template"]["spec"];
    let name = "MINICHAT_OPERATOR_OUTBOUND_ALLOW_PRIVATE";
    let entry = entry(&pod["containers"][0]["env"], name);
    Ok(entry.map_or(Value::Null, |entry| entry["value"].clone()))
}

/// D48: a release allows no private address by default, not even for developers.
#[test]
fn pool_and_operator_are_told_alike_which_private_addresses_are_allowed() -> anyhow::Result<()> {
    let dev = [
        "pool.config.auth.mode=dev",
        "pool.config.auth.allow_dev=true",
    ];
    for settings in [&[][..], &dev] {
        let rendered = render(settings)?;
        assert_eq!(
            config(&rendered)?.outbound.allow_private,
            AllowPrivate::NOTHING
        );
        assert_eq!(told_the_operator(&rendered)?, "");
    }
    let rendered = render(&["outbound.allowPrivate={10.0.0.0/8,.models.svc.cluster.local}"])?;
    let list = "10.0.0.0/8,.models.svc.cluster.local";
    assert_eq!(config(&rendered)?.outbound.allow_private, list.parse()?);
    assert_eq!(told_the_operator(&rendered)?, list);
    let checksum = |rendered: &Rendered| -> anyhow::Result<Value> {
        let set = rendered.get("StatefulSet", POOL)?;
        Ok(set["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone())
    };
    assert_ne!(
        checksum(&rendered)?,
        checksum(&render(&[])?)?,
        "a change rolls the pods"
    );
    Ok(())
}

/// D47: the whole directory is mounted, because single mounted files are never updated.
#[test]
fn certificates_come_from_a_config_map_or_a_secret() -> anyhow::Result<()> {
    assert_eq!(config(&render(&[])?)?.outbound.ca_file, None);
    for (setting, volume) in [
        ("existingConfigMap", json!({"configMap": {"name": "roots"}})),
        ("existingSecret", json!({"secret": {"secretName": "roots"}})),
    ] {
        let setting = format!("outbound.caBundle.{setting}=roots");
        let rendered = render(&[&setting, "outbound.caBundle.key=all.pem"])?;
        let file = config(&rendered)?.outbound.ca_file;
        assert_eq!(file, Some("/etc/minichat-ca/all.pem".into()));
        let pod = pod(&rendered)?;
        let mut found = entry(&pod["volumes"], "ca").cloned().unwrap_or_default();
        found.as_object_mut().unwrap().remove("name");
        assert_eq!(found, volume);
        let mount = entry(&pod["containers"][0]["volumeMounts"], "ca").unwrap();
        assert_eq!(mount["mountPath"], "/etc/minichat-ca");
        assert!(mount.get("subPath").is_none());
    }
    Ok(())
}

/// D47: a proxy's password is only in a Secret.
#[test]
fn the_proxy_is_a_value_or_in_a_secret() -> anyhow::Result<()> {
    let env = |settings: &[&str]| -> anyhow::Result<Value> {
        let rendered = render(settings)?;
        let found = entry(&pod(&rendered)?["containers"][0]["env"], PROXY);
        Ok(found.cloned().unwrap_or_default())
    };
    assert_eq!(env(&[])?, Value::Null);
    let url = "outbound.proxy=http://proxy.example.com:3128";
    assert_eq!(env(&[url])?["value"], "http://proxy.example.com:3128");
    let secret = "outbound.proxySecret.existingSecret=proxy";
    let reference = json!({"secretKeyRef": {"name": "proxy", "key": "url"}});
    assert_eq!(env(&[url, secret])?["valueFrom"], reference);
    let rendered = render(&[url, "outbound.noProxy={.internal,10.0.0.0/8}"])?;
    assert_eq!(
        config(&rendered)?.outbound.proxies.bypass,
        ".internal,10.0.0.0/8"
    );
    let refused = render(&["outbound.proxy=http://me:secret@proxy.example.com"]).unwrap_err();
    assert!(refused.to_string().contains("outbound"), "{refused}");
    for foreign in [
        "pool.config.outbound.ca_file=x",
        "pool.config.outbound.proxy=x",
    ] {
        let refused = render(&[foreign]).unwrap_err().to_string();
        assert!(refused.contains("not allowed"), "{foreign}: {refused}");
    }
    Ok(())
}

/// The peers that the policy of `name` allows at `port`: `None` = none, `Null` = all.
fn peers(rendered: &Rendered, name: &str, port: u16) -> anyhow::Result<Option<Value>> {
    let spec = &rendered.get("NetworkPolicy", name)?["spec"];
    assert!(
        spec["policyTypes"]
            .as_array()
            .unwrap()
            .contains(&json!("Ingress"))
    );
    let rules = spec["ingress"].as_array().into_iter().flatten();
    let mut of_port = rules.filter(|rule| rule["ports"][0]["port"] == port);
    Ok(of_port.next().map(|rule| rule["from"].clone()))
}

/// D48
#[test]
fn only_the_operator_and_monitoring_reach_the_admin_ports() -> anyhow::Result<()> {
    let rendered = render(&["database.existingSecret=database"])?;
    for (kind, name) in [("Deployment", POOL), ("Deployment", OPERATOR)] {
        let pods = &rendered.get(kind, name)?["spec"]["template"]["metadata"]["labels"];
        let selected = &rendered.get("NetworkPolicy", name)?["spec"]["podSelector"]["matchLabels"];
        let selected = selected.as_object().unwrap();
        assert!(
            !selected.is_empty() && selected.iter().all(|(label, value)| pods[label] == *value)
        );
    }
    let operator = &rendered.get("NetworkPolicy", OPERATOR)?["spec"]["podSelector"];
    let operator = json!([{"podSelector": operator}]);
    assert_eq!(peers(&rendered, POOL, 8087)?, Some(Value::Null));
    assert_eq!(peers(&rendered, POOL, 9090)?, Some(operator));
    assert_eq!(peers(&rendered, OPERATOR, 9090)?, None);
    assert_eq!(peers(&rendered, WATCHDOG, 9090)?, None);

    let named = render(&[
        "networkPolicy.monitoring[0].namespaceSelector.matchLabels.team=watch",
        "networkPolicy.clients[0].ipBlock.cidr=10.0.0.0/8",
        "networkPolicy.poolEgress[0].ports[0].port=443",
    ])?;
    let monitoring = json!({"namespaceSelector": {"matchLabels": {"team": "watch"}}});
    assert_eq!(peers(&named, OPERATOR, 9090)?, Some(json!([monitoring])));
    assert_eq!(peers(&named, POOL, 9090)?.unwrap()[1], monitoring);
    let client = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    assert_eq!(peers(&named, POOL, 8087)?, Some(json!([client])));
    let spec = &named.get("NetworkPolicy", POOL)?["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(spec["egress"], json!([{"ports": [{"port": 443}]}]));
    assert!(
        render(&["networkPolicy.enabled=false"])?
            .names("NetworkPolicy")
            .is_empty()
    );
    Ok(())
}

/// D48: with `egress.enabled` each component may call what it needs and nothing else.
#[test]
fn egress_that_is_restricted_leaves_each_pod_what_it_needs() -> anyhow::Result<()> {
    let on_postgres = "database.existingSecret=database";
    let open = render(&[on_postgres])?;
    for name in [POOL, OPERATOR, WATCHDOG, CLEANUP] {
        let spec = &open.get("NetworkPolicy", name)?["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress"]), "{name}");
    }
    let rendered = render(&[on_postgres, "networkPolicy.egress.enabled=true"])?;
    let pool = rendered.get("NetworkPolicy", POOL)?["spec"]["podSelector"].clone();
    for (name, needed) in [
        (POOL, "53 53 5353 5353 443 6443 5432 443"),
        (CLEANUP, "53 53 5353 5353 443 6443 5432 443"),
        (WATCHDOG, "53 53 5353 5353 443 6443 5432"),
        (OPERATOR, "53 53 5353 5353 443 6443 9090"),
    ] {
        let spec = &rendered.get("NetworkPolicy", name)?["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        let rules = spec["egress"].as_array().into_iter().flatten();
        let ports = rules.flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
        let ports: Vec<_> = ports.map(|port| port["port"].to_string()).collect();
        assert_eq!(ports.join(" "), needed, "{name}");
    }
    let rules = &rendered.get("NetworkPolicy", OPERATOR)?["spec"]["egress"];
    assert_eq!(rules[2]["to"], json!([{"podSelector": pool}]));
    let own = render(&[
        on_postgres,
        "networkPolicy.egress.enabled=true",
        "networkPolicy.egress.database[0].to[0].ipBlock.cidr=10.1.2.3/32",
        "networkPolicy.poolEgress[0].ports[0].port=8000",
    ])?;
    for (name, rules) in [(POOL, 5), (CLEANUP, 5), (WATCHDOG, 3), (OPERATOR, 3)] {
        let spec = &own.get("NetworkPolicy", name)?["spec"];
        assert_eq!(
            spec["egress"].as_array().map(Vec::len),
            Some(rules),
            "{name}"
        );
    }
    let rules = &own.get("NetworkPolicy", WATCHDOG)?["spec"]["egress"];
    assert_eq!(
        rules[2],
        json!({"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]})
    );
    Ok(())
}

/// K8S-70: `helm test` works where the clients are named.
#[test]
fn the_pod_of_helm_test_is_among_the_named_clients() -> anyhow::Result<()> {
    let named = "networkPolicy.clients[0].ipBlock.cidr=10.0.0.0/8";
    let rendered = render(&[named, "test.tenantId=5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"])?;
    let labels = &rendered.get("Pod", "minichat-test")?["metadata"]["labels"];
    let peers = peers(&rendered, POOL, 8087)?.unwrap_or_default();
    let selector = &peers[1]["podSelector"]["matchLabels"];
    let selector = selector.as_object().into_iter().flatten();
    assert_eq!(selector.clone().count(), 3);
    for (label, value) in selector {
        assert_eq!(labels[label], *value);
    }
    Ok(())
}
