//! Values of outgoing calls and of network policies.

use super::{ChartValue, Kind, NOT_EMPTY, OBJECT_NAME, value};

/// Fields of a peer in a `NetworkPolicy`.
const PEER: &[&str] = &["namespaceSelector", "podSelector", "ipBlock"];
/// Fields of an egress rule.
const EGRESS: &[&str] = &["to", "ports"];

pub(super) fn outbound() -> Vec<ChartValue> {
    vec![
        value(
            "outbound.allowPrivate",
            Kind::Texts("^[A-Za-z0-9._:/-]+$"),
            "[]",
            "Loopback and private addresses that providers, issuers and sinks of tenants may have: networks such as `10.0.0.0/8`, and host names such as `models.internal` (this name and all below it) or `.models.svc.cluster.local` (all names below it), whose private addresses are then allowed. Empty = public addresses only. Operator and data plane both use the list.",
        ),
        value(
            "outbound.caBundle.existingConfigMap",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "ConfigMap with certificate authorities (PEM) for providers, issuers, sinks and proxies, in addition to the public ones. A change needs no restart.",
        ),
        value(
            "outbound.caBundle.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the certificate authorities, instead of a ConfigMap.",
        ),
        value(
            "outbound.caBundle.key",
            Kind::Text("^[-._a-zA-Z0-9]+$"),
            "\"ca.crt\"",
            "Key of the certificates in the ConfigMap or Secret.",
        ),
        value(
            "outbound.proxy",
            Kind::Text("^(https?://[^@/]+/?)?$"),
            "\"\"",
            "Proxy for all calls to providers, issuers and sinks, such as `http://proxy.example.com:3128`. The proxy resolves host names itself, so it must refuse private addresses by its own rules.",
        ),
        value(
            "outbound.proxySecret.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the proxy's URL, for a URL with a password: `http://USER:PASSWORD@proxy.example.com:3128`.",
        ),
        value(
            "outbound.proxySecret.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"url\"",
            "Key of the value in that Secret.",
        ),
        value(
            "outbound.noProxy",
            Kind::Texts(NOT_EMPTY),
            "[]",
            "Destinations that are called without the proxy: networks, host names (including all names below them), or `*`.",
        ),
    ]
}

pub(super) fn network_policy() -> Vec<ChartValue> {
    vec![
        value(
            "networkPolicy.enabled",
            Kind::Bool,
            "true",
            "Whether the chart creates NetworkPolicies. They allow only the operator and `networkPolicy.monitoring` to reach the admin ports, and block all incoming traffic to jobs. They work only if the cluster's network enforces NetworkPolicies.",
        ),
        value(
            "networkPolicy.clients",
            Kind::Objects(PEER),
            "[]",
            "Peers that may reach the API, as in a NetworkPolicy: `namespaceSelector`, `podSelector`, `ipBlock`. Empty = all.",
        ),
        value(
            "networkPolicy.monitoring",
            Kind::Objects(PEER),
            "[]",
            "Peers that may scrape the metrics of pool and operator, as in a NetworkPolicy. Empty = none; the operator still reaches the pool.",
        ),
        value(
            "networkPolicy.poolEgress",
            Kind::Objects(EGRESS),
            "[]",
            "Egress rules of pool and clean-up. With `networkPolicy.egress.enabled` they are added to the rules below; without it they are the only ones, and must allow providers, issuers, sinks, database, DNS and the API server. Empty = no such rules.",
        ),
        value(
            "networkPolicy.egress.enabled",
            Kind::Bool,
            "false",
            "Whether the pods of this release may call only what they need, by the rules below: all of them DNS and the API server; the operator also the pool's admin port; pool and jobs the database; pool and clean-up the providers and `networkPolicy.poolEgress`.",
        ),
        value(
            "networkPolicy.egress.dns",
            Kind::Objects(EGRESS),
            r#"[{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}]}]"#,
            "Where names are resolved. Most plugins see the port of the DNS pods: 53, on OpenShift 5353.",
        ),
        value(
            "networkPolicy.egress.apiServer",
            Kind::Objects(EGRESS),
            r#"[{"ports": [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]}]"#,
            "The API server. The default allows its ports at every address; name its addresses, which `kubectl get endpointslices --namespace default` shows.",
        ),
        value(
            "networkPolicy.egress.database",
            Kind::Objects(EGRESS),
            r#"[{"ports": [{"port": 5432, "protocol": "TCP"}]}]"#,
            "PostgreSQL, or a pooler before it.",
        ),
        value(
            "networkPolicy.egress.providers",
            Kind::Objects(EGRESS),
            r#"[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]}}, {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}}], "ports": [{"port": 443, "protocol": "TCP"}]}]"#,
            "Providers, issuers and sinks of tenants, or the proxy before them. The default allows port 443 of public addresses.",
        ),
    ]
}
