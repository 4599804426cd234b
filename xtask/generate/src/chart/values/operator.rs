//! Values of the operator.

use super::{ChartValue, DNS_LABEL, Kind, images, pods, value};

pub(super) fn operator() -> Vec<ChartValue> {
    let mut values = vec![
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
    ];
    values.extend(images::of("operator", "\"minichat-operator\""));
    values.push(value(
        "operator.resources",
        Kind::Resources,
        r#"{"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}"#,
        "Resource requests and limits. A CPU limit would only slow the operator down.",
    ));
    values.push(value(
        "operator.strategy",
        Kind::Object(pods::STRATEGY),
        r#"{"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}"#,
        "Update strategy of the Deployment. With `type: Recreate`, `rollingUpdate` is left out.",
    ));
    values.push(value(
        "operator.podDisruptionBudget",
        Kind::Object(pods::DISRUPTION_BUDGET),
        r#"{"maxUnavailable": 1}"#,
        "PodDisruptionBudget of the pods, if there is more than one: `maxUnavailable`, or `minAvailable` with `maxUnavailable: null`. `null` = none.",
    ));
    values
}
