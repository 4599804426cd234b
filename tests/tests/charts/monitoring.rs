//! How Prometheus finds the admin ports.

use serde_json::{Value, json};

use crate::helm::render_values;

const KINDS: [&str; 2] = [
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/ServiceMonitor",
];

/// K8S-70: a cluster without the Prometheus operator refuses no release.
#[test]
fn monitors_are_rendered_on_request_and_only_where_their_kind_is_known() -> anyhow::Result<()> {
    for (value, kind, kinds) in [
        ("podMonitor", "PodMonitor", &KINDS[..1]),
        ("serviceMonitor", "ServiceMonitor", &KINDS[1..]),
    ] {
        let wanted = json!({"monitoring": {value: {"enabled": true}}});
        assert!(render_values(&json!({}), &KINDS)?.names(kind).is_empty());
        assert!(render_values(&wanted, &[])?.names(kind).is_empty());
        let names = render_values(&wanted, kinds)?.names(kind);
        assert_eq!(names, ["minichat-operator", "minichat-pool"]);
    }
    let both = json!({"monitoring": {
        "podMonitor": {"enabled": true}, "serviceMonitor": {"enabled": true},
    }});
    let refused = render_values(&both, &KINDS).unwrap_err().to_string();
    assert!(refused.contains("would scrape each pod twice"), "{refused}");
    Ok(())
}

/// K8S-15, K8S-70
#[test]
fn monitors_select_the_admin_port_of_pods_and_services() -> anyhow::Result<()> {
    let values = |monitor: &str| {
        json!({"monitoring": {
            monitor: {"enabled": true}, "labels": {"release": "prometheus"},
            "interval": "15s", "scrapeTimeout": "10s",
        }})
    };
    let endpoint =
        json!([{"port": "admin", "path": "/metrics", "interval": "15s", "scrapeTimeout": "10s"}]);
    let selects = |selector: &Value, labels: &Value| {
        let wanted = selector["matchLabels"].as_object().unwrap();
        wanted.len() == 3 && wanted.iter().all(|(label, value)| labels[label] == *value)
    };

    let rendered = render_values(&values("podMonitor"), &KINDS)?;
    for (component, kind) in [("pool", "StatefulSet"), ("operator", "Deployment")] {
        let name = format!("minichat-{component}");
        let monitor = rendered.get("PodMonitor", &name)?;
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
        assert_eq!(monitor["spec"]["podMetricsEndpoints"], endpoint);
        let pod = &rendered.get(kind, &name)?["spec"]["template"];
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        assert!(ports.contains(&json!({"name": "admin", "containerPort": 9090})));
        assert!(selects(
            &monitor["spec"]["selector"],
            &pod["metadata"]["labels"]
        ));
    }

    let rendered = render_values(&values("serviceMonitor"), &KINDS)?;
    for component in ["pool", "operator"] {
        let monitor = rendered.get("ServiceMonitor", &format!("minichat-{component}"))?;
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
        assert_eq!(monitor["spec"]["endpoints"], endpoint);
        // The API's Service has the same labels, but no port of this name.
        let services = rendered.all().iter().filter(|object| {
            object["kind"] == "Service"
                && selects(&monitor["spec"]["selector"], &object["metadata"]["labels"])
        });
        let ports = services.flat_map(|service| service["spec"]["ports"].as_array().unwrap());
        let admin: Vec<_> = ports.filter(|port| port["name"] == "admin").collect();
        assert_eq!(admin.len(), 1, "{component}");
    }
    Ok(())
}

/// K8S-15, K8S-70
#[test]
fn pods_carry_scrape_annotations_on_request() -> anyhow::Result<()> {
    let rendered = render_values(&json!({"monitoring": {"scrapeAnnotations": true}}), &[])?;
    let none = render_values(&json!({}), &[])?;
    for (kind, name) in [
        ("StatefulSet", "minichat-pool"),
        ("Deployment", "minichat-operator"),
    ] {
        let annotation = |rendered: &crate::helm::Rendered, name: &str, key: &str| {
            let pod = &rendered.get(kind, name)?["spec"]["template"];
            anyhow::Ok(pod["metadata"]["annotations"][format!("prometheus.io/{key}")].clone())
        };
        for (key, value) in [("scrape", "true"), ("port", "9090"), ("path", "/metrics")] {
            assert_eq!(annotation(&rendered, name, key)?, value);
            assert_eq!(annotation(&none, name, key)?, Value::Null);
        }
    }
    Ok(())
}
