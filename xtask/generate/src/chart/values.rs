//! The values of `charts/minichat`, one row each. `values.yaml`, its schema and the reference are generated from them.

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
    /// A list of texts that match the pattern.
    Texts(&'static str),
    /// Text by name, such as labels and annotations.
    TextByName,
    /// `resources` of a container.
    Resources,
    /// A Kubernetes object, which the API server checks.
    Object,
    /// A list of Kubernetes objects.
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

/// Pattern of the name of a namespace and of most objects, and of a label's value that is not empty.
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
        cleanup(),
        service_account("cleanup"),
        cleanup_resources(),
        placement("cleanup"),
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
            "Replaces the chart's name in names and labels.",
        ),
        value(
            "fullnameOverride",
            Kind::Text(""),
            "\"\"",
            "First part of every object's name; empty = derived from release and chart.",
        ),
        value(
            "commonLabels",
            Kind::TextByName,
            "{}",
            "Additional labels of every object and pod.",
        ),
        value(
            "dnsConfig",
            Kind::Object,
            r#"{"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "5"}]}"#,
            "`dnsConfig` of every pod. The default repeats a DNS query after one second if a packet is lost. The resolver's own default is five seconds, half of the default time for a connection to a provider. Your `options` replace these; `null` = the cluster's DNS settings.",
        ),
    ]
}

fn image() -> Vec<ChartValue> {
    vec![
        value(
            "image.registry",
            Kind::Text(""),
            "\"\"",
            "Registry of the images, such as `registry.example.com/minichat`; empty = the node's default.",
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
            "Number of operator pods. One is the leader, the others wait.",
        ),
        value(
            "operator.namespaces",
            Kind::Texts(DNS_LABEL),
            "[]",
            "Namespaces whose tenants are served; the chart creates a Role in each. Empty = all namespaces, with a ClusterRole. Tenants in the release's own namespace are never served. Delete the tenants of a namespace before you take it out of the list: what is rendered for them stays, with their credentials, and pods go on serving it.",
        ),
        value(
            "operator.image.repository",
            Kind::Text(NOT_EMPTY),
            "\"minichat-operator\"",
            "Image of the operator, without the registry.",
        ),
    ]
}

fn operator_resources() -> Vec<ChartValue> {
    vec![value(
        "operator.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}"#,
        "Resource requests and limits. A CPU limit would only slow the operator down.",
    )]
}

fn database() -> Vec<ChartValue> {
    vec![
        value(
            "database.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the URL of a PostgreSQL database. Empty = SQLite on a volume, with a single pod.",
        ),
        value(
            "database.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"url\"",
            "Key in that Secret whose value is the URL: `postgres://USER:PASSWORD@HOST/DATABASE`.",
        ),
        value(
            "database.listenSecretKey",
            Kind::Text(KEY_OR_EMPTY),
            "\"\"",
            "Key in that Secret whose value is the URL of PostgreSQL itself (`database.listen_url`). Needed if the first URL leads to a pooler such as PgBouncer. Empty = not used.",
        ),
        value(
            "database.certificates.existingConfigMap",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "ConfigMap with the certificate authorities (PEM) of PostgreSQL's certificate. Its keys become files in `/etc/minichat-database`: add `?sslmode=verify-full&sslrootcert=/etc/minichat-database/ca.crt` to the URL. Changed authorities need no restart.",
        ),
        value(
            "database.certificates.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with these files, instead of a ConfigMap. It may also hold the client's certificate and key, for `sslcert` and `sslkey`.",
        ),
    ]
}

fn outbound() -> Vec<ChartValue> {
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

fn network_policy() -> Vec<ChartValue> {
    vec![
        value(
            "networkPolicy.enabled",
            Kind::Bool,
            "true",
            "Whether the chart creates NetworkPolicies. They allow only the operator and `networkPolicy.monitoring` to reach the admin ports, and block all incoming traffic to jobs. They work only if the cluster's network enforces NetworkPolicies.",
        ),
        value(
            "networkPolicy.clients",
            Kind::Objects,
            "[]",
            "Peers that may reach the API, as in a NetworkPolicy: `namespaceSelector`, `podSelector`, `ipBlock`. Empty = all.",
        ),
        value(
            "networkPolicy.monitoring",
            Kind::Objects,
            "[]",
            "Peers that may scrape the metrics of pool and operator, as in a NetworkPolicy. Empty = none; the operator still reaches the pool.",
        ),
        value(
            "networkPolicy.poolEgress",
            Kind::Objects,
            "[]",
            "Egress rules of the pool's NetworkPolicy. They must allow providers, issuers, sinks, database, DNS and the API server. Empty = egress is not restricted.",
        ),
    ]
}

fn pool() -> Vec<ChartValue> {
    vec![
        value(
            "pool.name",
            Kind::Text(DNS_LABEL),
            "\"default\"",
            "Name of the pool. The release serves the tenants with this `spec.pool`. Its pods and the Secrets rendered for them have this name in the label `minichat.dev/pool`. Each release in a cluster needs its own name.",
        ),
        value(
            "pool.replicaCount",
            Kind::Integer(0, 100),
            "1",
            "Number of data plane pods. More than one needs `database.existingSecret`.",
        ),
        value(
            "pool.config",
            Kind::ProcessConfig,
            r#"{"auth": {"mode": "trusted_headers", "trusted_peers": ["127.0.0.0/8", "::1/128"]}, "drain": {"min_secs": 10}}"#,
            "Process configuration of the data plane: the keys of [docs/configuration.md](../../docs/configuration.md), nested. A change triggers a rolling restart. The default trusts the headers `X-Tenant-Id` and `X-User-Id` only from loopback, such as through `kubectl port-forward`. `drain.max_secs` is 20 on SQLite and 300 on PostgreSQL unless you set it.",
        ),
        value(
            "pool.sharedSecret.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with the value of `auth.shared_secret`. In mode `trusted_headers`, a gateway that sends it is trusted.",
        ),
        value(
            "pool.sharedSecret.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"shared-secret\"",
            "Key of the value in that Secret.",
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
            "Storage class of the volume; empty = the cluster's default.",
        ),
        value(
            "pool.persistence.accessMode",
            Kind::Choice(&["ReadWriteOnce", "ReadWriteOncePod"]),
            "\"ReadWriteOnce\"",
            "Access mode of the volume. Use `ReadWriteOncePod` if the storage driver supports it.",
        ),
        value(
            "pool.service.type",
            Kind::Choice(&["ClusterIP", "NodePort", "LoadBalancer"]),
            "\"ClusterIP\"",
            "Type of the API's Service, port 8087.",
        ),
        value(
            "pool.service.annotations",
            Kind::TextByName,
            "{}",
            "Annotations of the API's Service.",
        ),
        value(
            "pool.image.repository",
            Kind::Text(NOT_EMPTY),
            "\"minichat-dataplane\"",
            "Image of the data plane, without the registry.",
        ),
    ]
}

fn pool_resources() -> Vec<ChartValue> {
    vec![value(
        "pool.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}"#,
        "Resource requests and limits. A CPU limit would only delay tokens.",
    )]
}

fn watchdog() -> Vec<ChartValue> {
    vec![
        value(
            "watchdog.schedule",
            Kind::Text(NOT_EMPTY),
            "\"* * * * *\"",
            "Cron schedule of the search for turns that a crashed process left running. On SQLite the pool's pod searches by itself. `pool.config.orphan_watchdog` says when a turn counts as orphaned and whether the search is enabled. If you change the schedule, adapt `startingDeadlineSeconds`, `activeDeadlineSeconds` and `missedAfterSeconds`.",
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
            "Whether the schedule is suspended.",
        ),
        value(
            "watchdog.startingDeadlineSeconds",
            Kind::Integer(10, 172_800),
            "120",
            "Seconds after which a search that could not start is skipped. Set it to twice the period of the schedule.",
        ),
        value(
            "watchdog.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "50",
            "Seconds after which a search is ended. Set it to less than the period of the schedule. The next search finds the remaining turns.",
        ),
        value(
            "watchdog.missedAfterSeconds",
            Kind::Integer(30, 604_800),
            "300",
            "Seconds without a finished search after which the condition `JobsHealthy` of tenants reports a missed search. Set it to at least twice the period of the schedule plus both deadlines.",
        ),
    ]
}

fn watchdog_resources() -> Vec<ChartValue> {
    vec![value(
        "watchdog.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
        "Resource requests and limits.",
    )]
}

fn cleanup() -> Vec<ChartValue> {
    vec![
        value(
            "cleanup.schedule",
            Kind::Text(NOT_EMPTY),
            "\"*/5 * * * *\"",
            "Cron schedule of the clean-up, which deletes files and vector stores of deleted chats and attachments at their providers. On SQLite the pool's pod cleans up by itself. `pool.config.cleanup_worker` says whether the clean-up is enabled, and how often a file is tried. If you change the schedule, adapt the seconds below.",
        ),
        value(
            "cleanup.timeZone",
            Kind::Text(""),
            "\"\"",
            "Time zone of the schedule, such as `Etc/UTC`; empty = the cluster's.",
        ),
        value(
            "cleanup.suspend",
            Kind::Bool,
            "false",
            "Whether the schedule is suspended. What was deleted is then kept at the providers.",
        ),
        value(
            "cleanup.startingDeadlineSeconds",
            Kind::Integer(10, 172_800),
            "600",
            "Seconds after which a clean-up that could not start is skipped. Set it to twice the period of the schedule.",
        ),
        value(
            "cleanup.timeBudgetSeconds",
            Kind::Integer(1, 86_400),
            "240",
            "Seconds that a clean-up may take, more than `cleanup_worker.call_timeout_secs`. What is left waits for the next one.",
        ),
        value(
            "cleanup.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "290",
            "Seconds after which a clean-up is ended from outside. Set it to less than the period of the schedule, and to more than `cleanup.timeBudgetSeconds` and `cleanup_worker.call_timeout_secs` (30) together.",
        ),
    ]
}

fn cleanup_resources() -> Vec<ChartValue> {
    vec![value(
        "cleanup.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}"#,
        "Resource requests and limits.",
    )]
}

fn test() -> Vec<ChartValue> {
    vec![
        value(
            "test.tenantId",
            Kind::Text(UUID_OR_EMPTY),
            "\"\"",
            "Id of the tenant that `helm test` uses in mode `trusted_headers`. The test's pod must be among `auth.trusted_peers`, or `pool.sharedSecret` must be set. Empty = `helm test` works only in mode `dev`.",
        ),
        value(
            "test.userId",
            Kind::Text(UUID_OR_EMPTY),
            "\"00000000-0000-4000-8000-000000000001\"",
            "User that `helm test` uses in mode `trusted_headers`.",
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
            "Whether the chart creates the ServiceAccount of these pods.",
        ),
        value(
            path("name"),
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Name of the ServiceAccount; empty = derived from the release's name.",
        ),
        value(
            path("annotations"),
            Kind::TextByName,
            "{}",
            "Annotations of the ServiceAccount.",
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
            "Additional labels of the pods.",
        ),
        value(
            path("podAnnotations"),
            Kind::TextByName,
            "{}",
            "Annotations of the pods.",
        ),
    ]
}

/// Scheduling of the pods of `component`.
fn placement(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.{name}");
    vec![
        value(
            path("nodeSelector"),
            Kind::TextByName,
            "{}",
            "Labels that a node must have to run the pods.",
        ),
        value(
            path("tolerations"),
            Kind::Objects,
            "[]",
            "Tolerations of the pods.",
        ),
        value(
            path("affinity"),
            Kind::Object,
            "{}",
            "Affinity and anti-affinity of the pods.",
        ),
        value(
            path("topologySpreadConstraints"),
            Kind::Objects,
            "[]",
            "Topology spread constraints of the pods.",
        ),
        value(
            path("priorityClassName"),
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Priority class of the pods.",
        ),
    ]
}
