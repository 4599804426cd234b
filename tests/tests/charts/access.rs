//! The ways to the API: Service, Ingress, `HTTPRoute`.

use std::path::Path;

use minichat_config::ProcessConfig;
use serde_json::{Value, json};

use crate::helm::{render, render_values};

const POOL: &str = "minichat-pool";

fn service(values: &Value) -> anyhow::Result<Value> {
    let values = json!({"pool": {"service": values}});
    Ok(render_values(&values, &[])?.get("Service", POOL)?.clone())
}

/// K8S-70
#[test]
fn the_fields_of_the_service_are_values() -> anyhow::Result<()> {
    let plain = service(&json!({}))?;
    let port = json!({"name": "http", "port": 8087, "targetPort": "http", "appProtocol": "http"});
    assert_eq!(plain["spec"]["type"], "ClusterIP");
    assert_eq!(plain["spec"]["ports"], json!([port]));
    assert_eq!(plain["spec"].as_object().unwrap().len(), 3, "{plain}");
    let full = service(&json!({
        "type": "LoadBalancer", "port": 80, "nodePort": 30087,
        "labels": {"team": "chat"}, "annotations": {"note": "kept"}, "clusterIP": "10.96.0.87",
        "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"],
        "trafficDistribution": "PreferSameZone", "internalTrafficPolicy": "Cluster",
        "externalTrafficPolicy": "Local", "loadBalancerClass": "example.com/internal",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }))?;
    assert_eq!(full["metadata"]["labels"]["team"], "chat");
    assert_eq!(full["metadata"]["annotations"], json!({"note": "kept"}));
    let mut spec = full["spec"].clone();
    assert_eq!(spec["selector"], plain["spec"]["selector"]);
    spec.as_object_mut().unwrap().remove("selector");
    assert_eq!(
        spec,
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.87",
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http", "nodePort": 30087}],
            "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"],
            "trafficDistribution": "PreferSameZone", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Local", "loadBalancerClass": "example.com/internal",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
        })
    );
    for (wrong, field) in [
        (json!({"nodePort": 30087}), "nodePort"),
        (
            json!({"externalTrafficPolicy": "Local"}),
            "externalTrafficPolicy",
        ),
        (
            json!({"type": "NodePort", "loadBalancerClass": "x"}),
            "loadBalancerClass",
        ),
    ] {
        let refused = service(&wrong).unwrap_err().to_string();
        assert!(
            refused.contains("pool.service: ") && refused.contains(field),
            "{refused}"
        );
    }
    Ok(())
}

/// K8S-70: what exposes the API does not expose the admin port.
#[test]
fn the_admin_port_is_on_a_service_of_its_own() -> anyhow::Result<()> {
    let exposed = json!({
        "pool": {"service": {"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack"}},
    });
    let rendered = render_values(&exposed, &[])?;
    for (name, is_exposed) in [
        (POOL, true),
        ("minichat-pool-metrics", false),
        ("minichat-operator-metrics", false),
    ] {
        let spec = &rendered.get("Service", name)?["spec"];
        let ports = spec["ports"].as_array().into_iter().flatten();
        let is_admin = ports.map(|port| port["port"] == 9090);
        assert_eq!(is_admin.collect::<Vec<_>>(), [!is_exposed], "{name}");
        assert_eq!(spec["type"] == "LoadBalancer", is_exposed, "{name}");
        assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack", "{name}");
    }
    Ok(())
}

/// PLAT-160, K8S-70: a stream passes the proxy as it comes, and for as long as it lasts.
#[test]
fn the_ingress_leads_to_the_api_without_buffers_and_with_long_timeouts() -> anyhow::Result<()> {
    assert!(render(&[])?.names("Ingress").is_empty());
    let rendered = render(&[
        "ingress.enabled=true",
        "ingress.hosts={chat.example.com,b.example.com}",
    ])?;
    let ingress = rendered.get("Ingress", POOL)?;
    let annotations = &ingress["metadata"]["annotations"];
    for (annotation, value) in [
        ("nginx.ingress.kubernetes.io/proxy-buffering", "off"),
        ("nginx.ingress.kubernetes.io/proxy-request-buffering", "off"),
        ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
        ("nginx.ingress.kubernetes.io/proxy-body-size", "0"),
        ("nginx.org/proxy-buffering", "False"),
        ("haproxy.router.openshift.io/timeout", "3600s"),
    ] {
        assert_eq!(annotations[annotation], value, "{annotation}");
    }
    let service = rendered.get("Service", POOL)?;
    let backend =
        json!({"service": {"name": POOL, "port": {"name": service["spec"]["ports"][0]["name"]}}});
    let paths =
        json!({"paths": [{"path": "/mini-chat", "pathType": "Prefix", "backend": backend}]});
    assert_eq!(
        ingress["spec"],
        json!({"rules": [
            {"host": "chat.example.com", "http": paths}, {"host": "b.example.com", "http": paths},
        ]})
    );

    let values = json!({
        "pool": {"config": {"url_prefix": "/chat", "server": {"root_prefix": "/cf"}}},
        "ingress": {
            "enabled": true, "className": "nginx", "labels": {"team": "chat"},
            "annotations": {"nginx.org/proxy-buffering": null, "note": "own"},
            "tls": [{"hosts": ["chat.example.com"], "secretName": "chat-tls"}],
        },
    });
    let rendered = render_values(&values, &[])?;
    let ingress = rendered.get("Ingress", POOL)?;
    assert_eq!(ingress["metadata"]["labels"]["team"], "chat");
    let annotations = &ingress["metadata"]["annotations"];
    assert_eq!(annotations["note"], "own");
    assert!(annotations["nginx.org/proxy-buffering"].is_null());
    let spec = &ingress["spec"];
    assert_eq!(spec["ingressClassName"], "nginx");
    assert_eq!(spec["tls"], values["ingress"]["tls"]);
    assert_eq!(spec["rules"][0]["http"]["paths"][0]["path"], "/cf/chat");
    assert!(spec["rules"][0].get("host").is_none());
    Ok(())
}

/// K8S-70
#[test]
fn the_route_of_a_gateway_has_no_time_limit() -> anyhow::Result<()> {
    assert!(render(&[])?.names("HTTPRoute").is_empty());
    let refused = render(&["httpRoute.enabled=true"]).unwrap_err().to_string();
    assert!(refused.contains("httpRoute.parentRefs: "), "{refused}");
    let parents = json!([{"name": "public", "namespace": "gateways", "sectionName": "https"}]);
    let values = |more: Value| {
        let mut route =
            json!({"enabled": true, "parentRefs": parents, "hostnames": ["chat.example.com"]});
        route
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap_or_default());
        json!({"httpRoute": route, "pool": {"service": {"port": 80}}})
    };
    let rendered = render_values(&values(json!({})), &[])?;
    let route = rendered.get("HTTPRoute", POOL)?;
    assert_eq!(route["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": parents, "hostnames": ["chat.example.com"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/mini-chat"}}],
                "timeouts": {"request": "0s"},
                "backendRefs": [{"name": POOL, "port": 80}],
            }],
        })
    );
    let more =
        json!({"timeouts": null, "path": "/", "filters": [{"type": "RequestHeaderModifier"}]});
    let rendered = render_values(&values(more), &[])?;
    let rule = &rendered.get("HTTPRoute", POOL)?["spec"]["rules"][0];
    assert!(rule.get("timeouts").is_none());
    assert_eq!(rule["filters"][0]["type"], "RequestHeaderModifier");
    assert_eq!(rule["matches"][0]["path"]["value"], "/");
    Ok(())
}

/// PLAT-168, K8S-70
#[test]
fn a_secret_brings_tls_to_the_pods() -> anyhow::Result<()> {
    let values = json!({
        "pool": {"tls": {"existingSecret": "chat-tls"}, "config": {"server": {"docs_enabled": true}}},
        "ingress": {"enabled": true},
        "test": {"tenantId": "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"},
    });
    let rendered = render_values(&values, &[])?;
    let text = &rendered.get("ConfigMap", POOL)?["data"]["config.yaml"];
    let config = ProcessConfig::from_yaml(text.as_str().unwrap_or_default(), []);
    let config = config.map_err(|faults| anyhow::anyhow!("{faults}"))?;
    assert!(config.server.docs_enabled);
    let files = config.server.tls.unwrap();
    let pod = &rendered.get("StatefulSet", POOL)?["spec"]["template"]["spec"];
    let volume = json!({"name": "tls", "secret": {"secretName": "chat-tls"}});
    assert!(pod["volumes"].as_array().unwrap().contains(&volume));
    // The whole directory: the kubelet never renews single files.
    let mount = json!({"name": "tls", "mountPath": "/etc/minichat-tls", "readOnly": true});
    assert!(
        pod["containers"][0]["volumeMounts"]
            .as_array()
            .unwrap()
            .contains(&mount)
    );
    assert_eq!(files.certificate, Path::new("/etc/minichat-tls/tls.crt"));
    assert_eq!(files.key, Path::new("/etc/minichat-tls/tls.key"));
    let port = &rendered.get("Service", POOL)?["spec"]["ports"][0];
    assert_eq!(
        (&port["port"], &port["appProtocol"]),
        (&json!(8087), &json!("https"))
    );
    let annotations = &rendered.get("Ingress", POOL)?["metadata"]["annotations"];
    assert_eq!(
        annotations["nginx.ingress.kubernetes.io/backend-protocol"],
        "HTTPS"
    );

    let asking = &rendered.get("Pod", "minichat-test")?["spec"];
    let arguments = asking["containers"][0]["args"].as_array().unwrap();
    let url = "--url=https://minichat-pool.chat.svc:8087/mini-chat/v1";
    assert_eq!(arguments[1..3], [url, "--ca-file=/etc/minichat-ca/ca.crt"]);
    let secret = json!({"secretName": "chat-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    assert_eq!(asking["volumes"], json!([{"name": "ca", "secret": secret}]));
    assert_eq!(
        asking["containers"][0]["volumeMounts"][0]["mountPath"],
        "/etc/minichat-ca"
    );

    let refused = render(&["pool.config.server.tls.cert_file=/x"]).unwrap_err();
    assert!(
        refused.to_string().contains("'tls' not allowed"),
        "{refused}"
    );
    Ok(())
}
