//! Values of the pool.

use super::{ChartValue, DNS_LABEL, Kind, NOT_EMPTY, OBJECT_NAME, QUANTITY, images, pods, value};

pub(super) fn pool() -> Vec<ChartValue> {
    [
        process(),
        autoscaling(),
        persistence(),
        images::of("pool", "\"minichat-dataplane\""),
        rollout(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn process() -> Vec<ChartValue> {
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
            "Number of data plane pods. More than one needs `database.existingSecret`. Ignored with `pool.autoscaling.enabled`.",
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
    ]
}

fn autoscaling() -> Vec<ChartValue> {
    vec![
        value(
            "pool.autoscaling.enabled",
            Kind::Bool,
            "false",
            "Whether a HorizontalPodAutoscaler sets the number of pods. Needs `database.existingSecret`, and a metrics server.",
        ),
        value(
            "pool.autoscaling.minReplicas",
            Kind::Integer(1, 100),
            "2",
            "Smallest number of pods.",
        ),
        value(
            "pool.autoscaling.maxReplicas",
            Kind::Integer(1, 100),
            "10",
            "Largest number of pods.",
        ),
        value(
            "pool.autoscaling.targetCPUUtilizationPercentage",
            Kind::Integer(0, 1000),
            "70",
            "Average use of the CPU in percent of `pool.resources.requests.cpu` at which pods are added. Set the request to what a pod should use. 0 = not by CPU.",
        ),
        value(
            "pool.autoscaling.metrics",
            Kind::Objects(&[]),
            "[]",
            "Further metrics of the autoscaler (`autoscaling/v2`), such as open streams of a pod.",
        ),
        value(
            "pool.autoscaling.behavior",
            Kind::Object(&["scaleUp", "scaleDown"]),
            r#"{"scaleDown": {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}"#,
            "How fast pods are added and removed. A removed pod finishes its streams first, for at most `drain.max_secs`.",
        ),
    ]
}

fn persistence() -> Vec<ChartValue> {
    vec![
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
            "pool.persistence.annotations",
            Kind::TextByName,
            "{}",
            "Annotations of the claim. None of the claim's values can be changed later.",
        ),
        value(
            "pool.persistence.existingClaim",
            Kind::Text(OBJECT_NAME),
            "\"\"",
            "PersistentVolumeClaim for the SQLite database, instead of one that the chart makes.",
        ),
    ]
}

fn rollout() -> Vec<ChartValue> {
    vec![
        value(
            "pool.resources",
            Kind::Resources,
            r#"{"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}"#,
            "Resource requests and limits. A CPU limit would only delay tokens.",
        ),
        value(
            "pool.strategy",
            Kind::Object(pods::STRATEGY),
            r#"{"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}"#,
            "Update strategy of the Deployment on PostgreSQL. With `type: Recreate`, `rollingUpdate` is left out. On SQLite the old pod always stops before the new one starts.",
        ),
        value(
            "pool.minReadySeconds",
            Kind::Integer(0, 3600),
            "5",
            "Seconds that a new pod must be ready before the update goes on.",
        ),
        value(
            "pool.podDisruptionBudget",
            Kind::Object(pods::DISRUPTION_BUDGET),
            r#"{"maxUnavailable": 1}"#,
            "PodDisruptionBudget of the pods, if there can be more than one: `maxUnavailable`, or `minAvailable` with `maxUnavailable: null`. `null` = none.",
        ),
    ]
}
