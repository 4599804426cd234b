//! The values of `charts/minichat`, one row each. `values.yaml`, its schema and the reference are generated from them.

mod database;
mod images;
mod jobs;
mod network;
mod operator;
mod pods;
mod pool;
mod service;

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
    /// A Kubernetes object with some of these fields, whose values the API server checks; none = any fields.
    Object(&'static [&'static str]),
    /// A list of such objects.
    Objects(&'static [&'static str]),
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
const DIGEST_OR_EMPTY: &str = "^(sha256:[0-9a-f]{64})?$";
/// A duration of Prometheus, such as `30s`; may be left empty.
const DURATION_OR_EMPTY: &str = "^([0-9]+(ms|[smhd]))*$";

/// Every value, in the order of the reference.
pub(super) fn values() -> Vec<ChartValue> {
    [
        general(),
        images::common(),
        operator::operator(),
        pods::of("operator"),
        database::database(),
        database::migration(),
        pods::extras("migration"),
        network::outbound(),
        network::network_policy(),
        pool::pool(),
        service::service(),
        service::tls(),
        service::ingress(),
        service::http_route(),
        pods::of("pool"),
        jobs::watchdog(),
        pods::of("watchdog"),
        jobs::cleanup(),
        pods::of("cleanup"),
        monitoring(),
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
            "podSecurityContext",
            Kind::Object(&[
                "runAsNonRoot",
                "runAsUser",
                "runAsGroup",
                "fsGroup",
                "fsGroupChangePolicy",
                "supplementalGroups",
                "supplementalGroupsPolicy",
                "seccompProfile",
                "appArmorProfile",
                "seLinuxOptions",
                "seLinuxChangePolicy",
                "sysctls",
            ]),
            r#"{"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}"#,
            "Security context of every pod. `null` removes a field. On OpenShift, set `runAsUser`, `runAsGroup` and `fsGroup` to `null`, because `restricted-v2` assigns them.",
        ),
        value(
            "containerSecurityContext",
            Kind::Object(&[
                "allowPrivilegeEscalation",
                "readOnlyRootFilesystem",
                "capabilities",
                "runAsNonRoot",
                "runAsUser",
                "runAsGroup",
                "seccompProfile",
                "appArmorProfile",
                "seLinuxOptions",
            ]),
            r#"{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}"#,
            "Security context of every container. `null` removes a field.",
        ),
        value(
            "dnsConfig",
            Kind::Object(&["nameservers", "searches", "options"]),
            r#"{"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "5"}]}"#,
            "`dnsConfig` of every pod. The default repeats a DNS query after one second if a packet is lost. The resolver's own default is five seconds, half of the default time for a connection to a provider. Your `options` replace these; `null` = the cluster's DNS settings.",
        ),
    ]
}

fn monitoring() -> Vec<ChartValue> {
    vec![
        value(
            "monitoring.podMonitor.enabled",
            Kind::Bool,
            "false",
            "Whether the Prometheus operator is asked to scrape pool and operator by PodMonitors. They are created only if the cluster has this kind; `helm template` learns it from `--api-versions monitoring.coreos.com/v1/PodMonitor`.",
        ),
        value(
            "monitoring.serviceMonitor.enabled",
            Kind::Bool,
            "false",
            "The same by ServiceMonitors, instead of PodMonitors.",
        ),
        value(
            "monitoring.labels",
            Kind::TextByName,
            "{}",
            "Additional labels of the monitors, such as those that your Prometheus selects.",
        ),
        value(
            "monitoring.interval",
            Kind::Text(DURATION_OR_EMPTY),
            "\"30s\"",
            "How often the monitors have metrics scraped; empty = as Prometheus does by default.",
        ),
        value(
            "monitoring.scrapeTimeout",
            Kind::Text(DURATION_OR_EMPTY),
            "\"\"",
            "Longest time of one scrape; empty = as Prometheus does by default.",
        ),
        value(
            "monitoring.scrapeAnnotations",
            Kind::Bool,
            "false",
            "Whether the pods of pool and operator have the annotations `prometheus.io/scrape`, `prometheus.io/port` and `prometheus.io/path`, for a Prometheus without its operator.",
        ),
    ]
}

fn test() -> Vec<ChartValue> {
    vec![
        value(
            "test.tenantId",
            Kind::Text(UUID_OR_EMPTY),
            "\"\"",
            "Id of the tenant that `helm test` uses in mode `trusted_headers`. The test's pod must be among `auth.trusted_peers`, or `pool.sharedSecret` must be set.",
        ),
        value(
            "test.userId",
            Kind::Text(UUID_OR_EMPTY),
            "\"00000000-0000-4000-8000-000000000001\"",
            "User that `helm test` uses in mode `trusted_headers`.",
        ),
        value(
            "test.tokenSecret.existingSecret",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Secret with a bearer token that `helm test` sends, for mode `oidc` and for tenants with their own issuers. It must be valid when the test runs.",
        ),
        value(
            "test.tokenSecret.secretKey",
            Kind::Text(NOT_EMPTY),
            "\"token\"",
            "Key of the token in that Secret.",
        ),
    ]
}
