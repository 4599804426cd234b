//! Values of the database.

use super::{ChartValue, KEY_OR_EMPTY, Kind, NOT_EMPTY, OBJECT_NAME, value};

pub(super) fn database() -> Vec<ChartValue> {
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
        value(
            "database.maxConnections",
            Kind::Integer(0, 1_000_000),
            "0",
            "Connections that this release may have at PostgreSQL: its `max_connections` without reserved ones and those of other clients. The chart refuses values that could need more: (`pool.config.database.max_conns` + 1) for each pod, for each pod that a rolling update replaces, and for each kind of job. 0 = not checked; the notes of the release show the number.",
        ),
    ]
}

/// How the schema gets to a new version (K8S-43).
pub(super) fn migration() -> Vec<ChartValue> {
    vec![
        value(
            "migration.mode",
            Kind::Choice(&["Pods", "Job"]),
            "\"Pods\"",
            "Who migrates the schema of PostgreSQL. `Pods`: the first pod of a new release, when it starts. `Job`: a Helm hook before each installation and upgrade; if it fails, nothing else changes. `pool.config.database.auto_migrate` is then `false`. SQLite is always migrated by its pod.",
        ),
        value(
            "migration.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "600",
            "Seconds after which the Job is ended. Helm's `--timeout` must be longer.",
        ),
        value(
            "migration.resources",
            Kind::Resources,
            r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
            "Resource requests and limits.",
        ),
    ]
}
