//! The values of `charts/minichat`: one row each, of which `values.yaml`, its schema and the reference are made.

/// One value of the chart.
pub(super) struct ChartValue {
    /// Path with dots, such as `operator.replicaCount`.
    pub path: String,
    /// Type and bounds.
    pub kind: Kind,
    /// Default as JSON.
    pub default: &'static str,
    /// Meaning, Markdown of one paragraph.
    pub help: &'static str,
}

/// Type and bounds of a value.
pub(super) enum Kind {
    /// Text that matches the pattern; empty = any.
    Text(&'static str),
    Integer(u32, u32),
    Bool,
    Choice(&'static [&'static str]),
    /// Texts that match the pattern.
    Texts(&'static str),
    /// Text by name, as labels and annotations are.
    TextByName,
    /// `resources` of a container.
    Resources,
    /// An object of Kubernetes, which the API server checks.
    Object,
    /// A list of objects of Kubernetes.
    Objects,
    /// Process configuration of the data plane.
    ProcessConfig,
}

fn value(
    path: impl Into<String>,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> ChartValue {
    ChartValue {
        path: path.into(),
        kind,
        default,
        help,
    }
}

/// Name of a namespace, of a label's value that is not empty, and of most objects.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
/// Name of a Secret or a `ServiceAccount`; may be left empty.
const OBJECT_NAME: &str = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$";
const QUANTITY: &str = "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";
const KEY_OR_EMPTY: &str = "^[-._a-zA-Z0-9]*$";
const NOT_EMPTY: &str = "^.+$";
const UUID_OR_EMPTY: &str = "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})?$";

/// Every value, in the order of the reference.
pub(super) fn values() -> Vec<ChartValue> {
    [
        general(),
        image(),
        operator(),
        service_account("operator"),
        operator_resources(),
        pod_metadata("operator"),
        placement("operator"),
        database(),
        outbound(),
        network_policy(),
        pool(),
        service_account("pool"),
        pool_resources(),
        pod_metadata("pool"),
        placement("pool"),
        watchdog(),
        service_account("watchdog"),
        watchdog_resources(),
        placement("watchdog"),
        test(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn general() -> Vec<ChartValue> {
    vec![
        value(
            "nameOverride",
            Kind::Text(""),
            "\"\"",
            "Instead of the chart's name in names and labels.",
        ),
        value(
            "fullnameOverride",
            Kind::Text(""),
            "\"\"",
            "First part of every object's name; empty = made of release and chart.",
        ),
        value(
            "commonLabels",
            Kind::TextByName,
            "{}",
            "Labels of every object and pod, besides the usual ones.",
        ),
        value(
            "dnsConfig",
            Kind::Object,
            r#"{"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "5"}]}"#,
            "DNS of every pod. The default lets a packet that gets lost on the way to the DNS server cost one second; the resolver's own is five, half of what a provider has for a connection. `options` given here take the place of these; `null` = the cluster's DNS as it is.",
        ),
    ]
}

fn image() -> Vec<ChartValue> {
    vec![
        value(
            "image.registry",
            Kind::Text(""),
            "\"\"",
            "Where images are pulled from, such as `registry.example.com/minichat`; empty = the node's default.",
        ),
        value(
            "image.tag",
            Kind::Text(""),
            "\"\"",
            "Tag of the images; empty = the chart's `appVersion`.",
        ),
        value(
            "image.pullPolicy",
            Kind::Choice(&["IfNotPresent", "Always", "Never"]),
            "\"IfNotPresent\"",
            "When images are pulled.",
        ),
        value(
            "image.pullSecrets",
            Kind::Texts(DNS_LABEL),
            "[]",
            "Names of Secrets with the registry's credentials.",
        ),
    ]
}

fn operator() -> Vec<ChartValue> {
    vec![
        value(
            "operator.replicaCount",
            Kind::Integer(1, 5),
            "1",
            "Operators; one leads, the others wait.",
        ),
        value(
            "operator.namespaces",
            Kind::Texts(DNS_LABEL),
            "[]",
            "Namespaces whose tenants are served, with a Role in each; empty = all, with a ClusterRole. Tenants of the release's own namespace are served in neither case.",
        ),
        value(
            "operator.image.repository",
            Kind::Text(NOT_EMPTY),
            "\"minichat-operator\"",
            "Image of the operator, below `image.registry`.",
        ),
    ]
}

fn operator_resources() -> Vec<ChartValue> {
    vec![value(
        "operator.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}"#,
        "Requests and limits. A limit of CPU would only slow it down.",
    )]
}

fn database() -> Vec<ChartValue> {
    vec![
        value(
            "database.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the URL of a PostgreSQL database. Empty = SQLite in a volume of the pool's single pod.",
        ),
        value(
            "database.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"url\"",
            "Key of the URL in that Secret: `postgres://USER:PASSWORD@HOST/DATABASE`.",
        ),
        value(
            "database.listenSecretKey",
            Kind::Text(KEY_OR_EMPTY),
            "\"\"",
            "Key in that Secret of the URL of PostgreSQL itself (`database.listen_url`), where the other leads through a pooler such as PgBouncer. Empty = there is none.",
        ),
    ]
}

fn outbound() -> Vec<ChartValue> {
    vec![
        value(
            "outbound.allowPrivate",
            Kind::Texts("^[A-Za-z0-9._:/-]+$"),
            "[]",
            "Loopback and private addresses that providers and issuers of tenants may have: networks such as `10.0.0.0/8`, and host names such as `models.internal` or `.models.svc.cluster.local` (all below it), whose private addresses are then allowed. Empty = public addresses only. Operator and data plane are told alike.",
        ),
        value(
            "outbound.caBundle.existingConfigMap",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "ConfigMap with certificates in PEM that providers, issuers and proxies may prove themselves by, besides the public ones. A change needs no restart.",
        ),
        value(
            "outbound.caBundle.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with them, instead of a ConfigMap.",
        ),
        value(
            "outbound.caBundle.key",
            Kind::Text("^[-._a-zA-Z0-9]+$"),
            "\"ca.crt\"",
            "Their key in it.",
        ),
        value(
            "outbound.proxy",
            Kind::Text("^(https?://[^@/]+/?)?$"),
            "\"\"",
            "Proxy of all calls to providers and issuers, such as `http://proxy.example.com:3128`. It resolves names itself, so it must refuse private addresses by its own rules.",
        ),
        value(
            "outbound.proxySecret.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the proxy's URL, where that has a password: `http://USER:PASSWORD@proxy.example.com:3128`.",
        ),
        value(
            "outbound.proxySecret.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"url\"",
            "Its key in that Secret.",
        ),
        value(
            "outbound.noProxy",
            Kind::Texts(NOT_EMPTY),
            "[]",
            "What is called without the proxy: networks, host names with all below them, or `*`.",
        ),
    ]
}

fn network_policy() -> Vec<ChartValue> {
    vec![
        value(
            "networkPolicy.enabled",
            Kind::Bool,
            "true",
            "Whether NetworkPolicies keep everybody but the operator and `networkPolicy.monitoring` from the admin ports, and everybody from jobs. They count where the cluster's network enforces them.",
        ),
        value(
            "networkPolicy.clients",
            Kind::Objects,
            "[]",
            "Who reaches the API, as peers of a NetworkPolicy: `namespaceSelector`, `podSelector`, `ipBlock`. Empty = everybody.",
        ),
        value(
            "networkPolicy.monitoring",
            Kind::Objects,
            "[]",
            "Who scrapes the metrics of pool and operator, as peers of a NetworkPolicy. Empty = nobody but the operator.",
        ),
        value(
            "networkPolicy.poolEgress",
            Kind::Objects,
            "[]",
            "Rules of a NetworkPolicy for what the pool calls: providers, issuers, database, DNS, API server. Empty = no rule of the network.",
        ),
    ]
}

fn pool() -> Vec<ChartValue> {
    vec![
        value(
            "pool.name",
            Kind::Text(DNS_LABEL),
            "\"default\"",
            "Name of the pool: `spec.pool` of the tenants that the release serves, and the label `minichat.dev/pool` of its pods and of what is rendered for them. Releases of one cluster need different ones.",
        ),
        value(
            "pool.replicaCount",
            Kind::Integer(0, 100),
            "1",
            "Data planes. More than one needs `database.existingSecret`.",
        ),
        value(
            "pool.config",
            Kind::ProcessConfig,
            r#"{"auth": {"mode": "trusted_headers", "trusted_peers": ["127.0.0.0/8", "::1/128"]}, "drain": {"min_secs": 10}}"#,
            "Process configuration of the data plane, the keys of [docs/configuration.md](../../docs/configuration.md) nested. A change rolls the pods. The default believes the headers `X-Tenant-Id` and `X-User-Id` of `kubectl port-forward` and of nobody else. `drain.max_secs` is 20 on SQLite and 300 on PostgreSQL unless it is set.",
        ),
        value(
            "pool.sharedSecret.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the value of `auth.shared_secret`, by which a gateway proves that it may set the headers of `trusted_headers`.",
        ),
        value(
            "pool.sharedSecret.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"shared-secret\"",
            "Its key in that Secret.",
        ),
        value(
            "pool.persistence.size",
            Kind::Text(QUANTITY),
            "\"2Gi\"",
            "Size of the volume of the SQLite database.",
        ),
        value(
            "pool.persistence.storageClassName",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Its storage class; empty = the cluster's default.",
        ),
        value(
            "pool.persistence.accessMode",
            Kind::Choice(&["ReadWriteOnce", "ReadWriteOncePod"]),
            "\"ReadWriteOnce\"",
            "Its access mode; `ReadWriteOncePod` where the storage driver knows it.",
        ),
        value(
            "pool.service.type",
            Kind::Choice(&["ClusterIP", "NodePort", "LoadBalancer"]),
            "\"ClusterIP\"",
            "Type of the Service of the API, port 8087.",
        ),
        value(
            "pool.service.annotations",
            Kind::TextByName,
            "{}",
            "Its annotations.",
        ),
        value(
            "pool.image.repository",
            Kind::Text(NOT_EMPTY),
            "\"minichat-dataplane\"",
            "Image of the data plane, below `image.registry`.",
        ),
    ]
}

fn pool_resources() -> Vec<ChartValue> {
    vec![value(
        "pool.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}"#,
        "Requests and limits. A limit of CPU would only delay tokens.",
    )]
}

fn watchdog() -> Vec<ChartValue> {
    vec![
        value(
            "watchdog.schedule",
            Kind::Text(NOT_EMPTY),
            "\"* * * * *\"",
            "When turns that a dead process left running are looked for, as of cron; on SQLite the pool's pod looks itself. `pool.config.orphan_watchdog` says when a turn is left behind, and whether anybody looks. `startingDeadlineSeconds`, `activeDeadlineSeconds` and `missedAfterSeconds` go with it.",
        ),
        value(
            "watchdog.timeZone",
            Kind::Text(""),
            "\"\"",
            "Time zone of the schedule, such as `Etc/UTC`; empty = the cluster's.",
        ),
        value(
            "watchdog.suspend",
            Kind::Bool,
            "false",
            "Whether no further search begins.",
        ),
        value(
            "watchdog.startingDeadlineSeconds",
            Kind::Integer(10, 172_800),
            "120",
            "Seconds after which a search that could not begin is left to the next; twice the period of the schedule.",
        ),
        value(
            "watchdog.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "50",
            "Seconds after which a search is ended; less than the period of the schedule. What it has not reached the next one finds.",
        ),
        value(
            "watchdog.missedAfterSeconds",
            Kind::Integer(30, 604_800),
            "300",
            "Seconds without an end of a search after which the condition `JobsHealthy` of tenants says that one is missed; at least twice the period of the schedule plus both deadlines.",
        ),
    ]
}

fn watchdog_resources() -> Vec<ChartValue> {
    vec![value(
        "watchdog.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
        "Requests and limits.",
    )]
}

fn test() -> Vec<ChartValue> {
    vec![
        value(
            "test.tenantId",
            Kind::Text(UUID_OR_EMPTY),
            "\"\"",
            "Tenant that `helm test` chats with in the mode `trusted_headers`; the test's pod must be among `auth.trusted_peers`, or `pool.sharedSecret` be set. Empty = there is a test only in the mode `dev`.",
        ),
        value(
            "test.userId",
            Kind::Text(UUID_OR_EMPTY),
            "\"00000000-0000-4000-8000-000000000001\"",
            "User that `helm test` chats as in the mode `trusted_headers`.",
        ),
    ]
}

/// The `ServiceAccount` of `component`.
fn service_account(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.serviceAccount.{name}");
    vec![
        value(
            path("create"),
            Kind::Bool,
            "true",
            "Whether the chart makes the ServiceAccount of these pods.",
        ),
        value(
            path("name"),
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Its name; empty = made of the release's.",
        ),
        value(
            path("annotations"),
            Kind::TextByName,
            "{}",
            "Its annotations.",
        ),
    ]
}

/// Labels and annotations of the pods of `component`.
fn pod_metadata(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.{name}");
    vec![
        value(
            path("podLabels"),
            Kind::TextByName,
            "{}",
            "Further labels of the pods.",
        ),
        value(
            path("podAnnotations"),
            Kind::TextByName,
            "{}",
            "Annotations of the pods.",
        ),
    ]
}

/// Where the pods of `component` run.
fn placement(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.{name}");
    vec![
        value(
            path("nodeSelector"),
            Kind::TextByName,
            "{}",
            "Labels of the nodes that the pods may run on.",
        ),
        value(
            path("tolerations"),
            Kind::Objects,
            "[]",
            "Taints that the pods bear.",
        ),
        value(
            path("affinity"),
            Kind::Object,
            "{}",
            "Which nodes and neighbours the pods seek or avoid.",
        ),
        value(
            path("topologySpreadConstraints"),
            Kind::Objects,
            "[]",
            "How the pods spread over zones and nodes.",
        ),
        value(
            path("priorityClassName"),
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Priority of the pods.",
        ),
    ]
}
