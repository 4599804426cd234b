//! Values of the ways to the API: Service, Ingress, `HTTPRoute`.

use super::{ChartValue, KEY_OR_EMPTY, Kind, OBJECT_NAME, value};

pub(super) fn service() -> Vec<ChartValue> {
    let path = |name| format!("pool.service.{name}");
    vec![
        value(
            path("type"),
            Kind::Choice(&["ClusterIP", "NodePort", "LoadBalancer"]),
            "\"ClusterIP\"",
            "Type of the API's Service.",
        ),
        value(
            path("port"),
            Kind::Integer(1, 65_535),
            "8087",
            "Port of the API's Service.",
        ),
        value(
            path("nodePort"),
            Kind::Integer(0, 65_535),
            "0",
            "Port on the nodes, for the types `NodePort` and `LoadBalancer`; 0 = the cluster chooses one.",
        ),
        value(
            path("labels"),
            Kind::TextByName,
            "{}",
            "Additional labels of the API's Service.",
        ),
        value(
            path("annotations"),
            Kind::TextByName,
            "{}",
            "Annotations of the API's Service.",
        ),
        value(
            path("clusterIP"),
            Kind::Text("^(None|[0-9a-fA-F.:]*)$"),
            "\"\"",
            "Address of the Service; `None` = headless. It cannot be changed later.",
        ),
        value(
            path("ipFamilyPolicy"),
            Kind::Choice(&["", "SingleStack", "PreferDualStack", "RequireDualStack"]),
            "\"\"",
            "Address families of both Services of the pool and of the operator's; empty = the cluster's default.",
        ),
        value(
            path("ipFamilies"),
            Kind::Texts("^IPv[46]$"),
            "[]",
            "Address families in their order, of the same Services.",
        ),
        value(
            path("trafficDistribution"),
            Kind::Choice(&["", "PreferClose", "PreferSameZone", "PreferSameNode"]),
            "\"\"",
            "Which pods get a new connection first; empty = all alike.",
        ),
        value(
            path("internalTrafficPolicy"),
            Kind::Choice(&["", "Cluster", "Local"]),
            "\"\"",
            "Whether connections from the cluster stay on their node; empty = the cluster's default.",
        ),
        value(
            path("externalTrafficPolicy"),
            Kind::Choice(&["", "Cluster", "Local"]),
            "\"\"",
            "Whether connections from outside stay on their node and keep their source address, for the types `NodePort` and `LoadBalancer`; empty = the cluster's default.",
        ),
        value(
            path("loadBalancerClass"),
            Kind::Text(""),
            "\"\"",
            "Class of the load balancer, for the type `LoadBalancer`.",
        ),
        value(
            path("loadBalancerSourceRanges"),
            Kind::Texts("^[0-9a-fA-F.:]+/[0-9]+$"),
            "[]",
            "Networks that the load balancer lets in.",
        ),
    ]
}

pub(super) fn tls() -> Vec<ChartValue> {
    vec![
        value(
            "pool.tls.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret of type `kubernetes.io/tls` (`tls.crt`, `tls.key`) with which the pool serves the API over TLS, on the same port. A renewed certificate needs no restart. Empty = without TLS.",
        ),
        value(
            "pool.tls.testCaKey",
            Kind::Text(KEY_OR_EMPTY),
            "\"ca.crt\"",
            "Key in that Secret with the authorities that `helm test` trusts in addition to the public ones; the certificate must be valid for `<release>-pool.<namespace>.svc`. Empty = the public ones alone.",
        ),
    ]
}

pub(super) fn ingress() -> Vec<ChartValue> {
    vec![
        value(
            "ingress.enabled",
            Kind::Bool,
            "false",
            "Whether the chart creates an Ingress for the API.",
        ),
        value(
            "ingress.className",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Class of the Ingress; empty = the cluster's default.",
        ),
        value(
            "ingress.hosts",
            Kind::Texts("^(\\*\\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
            "[]",
            "Host names of the API. Empty = every host name.",
        ),
        value(
            "ingress.path",
            Kind::Text("^(/.*)?$"),
            "\"\"",
            "Path that leads to the pool, unchanged; empty = the path of the API, `/mini-chat`.",
        ),
        value(
            "ingress.pathType",
            Kind::Choice(&["Prefix", "Exact", "ImplementationSpecific"]),
            "\"Prefix\"",
            "How the path is compared.",
        ),
        value(
            "ingress.tls",
            Kind::Objects(&["hosts", "secretName"]),
            "[]",
            "Certificates: `hosts`, and `secretName` of a Secret of type `kubernetes.io/tls`.",
        ),
        value(
            "ingress.labels",
            Kind::TextByName,
            "{}",
            "Additional labels of the Ingress.",
        ),
        value(
            "ingress.annotations",
            Kind::TextByName,
            r#"{"nginx.ingress.kubernetes.io/proxy-buffering": "off", "nginx.ingress.kubernetes.io/proxy-request-buffering": "off", "nginx.ingress.kubernetes.io/proxy-read-timeout": "3600", "nginx.ingress.kubernetes.io/proxy-send-timeout": "3600", "nginx.ingress.kubernetes.io/proxy-body-size": "0", "nginx.org/proxy-buffering": "False", "nginx.org/proxy-read-timeout": "3600s", "nginx.org/proxy-send-timeout": "3600s", "nginx.org/client-max-body-size": "0", "haproxy.org/timeout-server": "3600s", "haproxy.router.openshift.io/timeout": "3600s"}"#,
            "Annotations of the Ingress. The defaults let answers stream through ingress-nginx, NGINX Ingress Controller, HAProxy and OpenShift's router: no buffers, an hour of patience, and no limit of the body besides `rag.*` and `server.body_limit_bytes`. `null` removes one.",
        ),
    ]
}

pub(super) fn http_route() -> Vec<ChartValue> {
    vec![
        value(
            "httpRoute.enabled",
            Kind::Bool,
            "false",
            "Whether the chart creates an HTTPRoute for the API. The cluster needs the Gateway API.",
        ),
        value(
            "httpRoute.parentRefs",
            Kind::Objects(&["group", "kind", "namespace", "name", "sectionName", "port"]),
            "[]",
            "Gateways that the route belongs to; at least one.",
        ),
        value(
            "httpRoute.hostnames",
            Kind::Texts("^(\\*\\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
            "[]",
            "Host names of the API. Empty = those of the Gateway.",
        ),
        value(
            "httpRoute.path",
            Kind::Text("^(/.*)?$"),
            "\"\"",
            "Path prefix that leads to the pool, unchanged; empty = the path of the API, `/mini-chat`.",
        ),
        value(
            "httpRoute.timeouts",
            Kind::Object(&["request", "backendRequest"]),
            r#"{"request": "0s"}"#,
            "Timeouts of the route. `0s` = none: many Gateways end a request after 15 seconds otherwise, and with it an answer that is streamed. `null` = the Gateway's defaults.",
        ),
        value(
            "httpRoute.filters",
            Kind::Objects(&[]),
            "[]",
            "Filters of the route.",
        ),
        value(
            "httpRoute.labels",
            Kind::TextByName,
            "{}",
            "Additional labels of the HTTPRoute.",
        ),
        value(
            "httpRoute.annotations",
            Kind::TextByName,
            "{}",
            "Annotations of the HTTPRoute.",
        ),
    ]
}
