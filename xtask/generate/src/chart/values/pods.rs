//! Values that the pods of all components have.

use super::{ChartValue, Kind, OBJECT_NAME, value};

/// Fields of the `strategy` of a Deployment.
pub(super) const STRATEGY: &[&str] = &["type", "rollingUpdate"];
/// Fields of a `PodDisruptionBudget` that are values.
pub(super) const DISRUPTION_BUDGET: &[&str] = &[
    "minAvailable",
    "maxUnavailable",
    "unhealthyPodEvictionPolicy",
];

const ANY_NODE: &str = "[]";
/// Without a `labelSelector`, which the templates add.
const EVEN: &str = r#"[{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}, {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}]"#;

/// Everything that the pods of `component` have beside its own values.
pub(super) fn of(component: &str) -> Vec<ChartValue> {
    let spread = match component {
        "operator" | "pool" => EVEN,
        _ => ANY_NODE,
    };
    [
        service_account(component),
        metadata(component),
        extras(component),
        placement(component, spread),
    ]
    .into_iter()
    .flatten()
    .collect()
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

/// Labels and annotations of `component` and of its pods.
fn metadata(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.{name}");
    vec![
        value(
            path("labels"),
            Kind::TextByName,
            "{}",
            "Additional labels of the Deployment, StatefulSet or CronJob.",
        ),
        value(
            path("annotations"),
            Kind::TextByName,
            "{}",
            "Annotations of the Deployment, StatefulSet or CronJob.",
        ),
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

/// What the container of `component` gets besides what the chart gives it.
pub(super) fn extras(component: &str) -> Vec<ChartValue> {
    let path = |name| format!("{component}.{name}");
    vec![
        value(
            path("extraEnv"),
            Kind::Objects(&["name", "value", "valueFrom"]),
            "[]",
            "Additional environment variables of the container. Those that the chart sets cannot be set again.",
        ),
        value(
            path("extraVolumes"),
            Kind::Objects(&[]),
            "[]",
            "Additional volumes of the pods.",
        ),
        value(
            path("extraVolumeMounts"),
            Kind::Objects(&[
                "name",
                "mountPath",
                "subPath",
                "subPathExpr",
                "readOnly",
                "recursiveReadOnly",
                "mountPropagation",
            ]),
            "[]",
            "Additional mounts of the container.",
        ),
    ]
}

/// Scheduling of the pods of `component`.
fn placement(component: &str, spread: &'static str) -> Vec<ChartValue> {
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
            Kind::Objects(&["key", "operator", "value", "effect", "tolerationSeconds"]),
            "[]",
            "Tolerations of the pods.",
        ),
        value(
            path("affinity"),
            Kind::Object(&["nodeAffinity", "podAffinity", "podAntiAffinity"]),
            "{}",
            "Affinity and anti-affinity of the pods.",
        ),
        value(
            path("topologySpreadConstraints"),
            Kind::Objects(&[
                "maxSkew",
                "topologyKey",
                "whenUnsatisfiable",
                "labelSelector",
                "matchLabelKeys",
                "minDomains",
                "nodeAffinityPolicy",
                "nodeTaintsPolicy",
            ]),
            spread,
            "Topology spread constraints of the pods. One without a `labelSelector` counts the pods of this component; those of a Deployment by revision, so that a rolling update spreads them evenly.",
        ),
        value(
            path("priorityClassName"),
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "Priority class of the pods.",
        ),
    ]
}
