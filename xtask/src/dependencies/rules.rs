//! The dependency rules, as tables.

use super::graph::Graph;

/// Which crates of the workspace each crate may import.
const IMPORTS: &[(&str, &[&str])] = &[
    ("minichat-core", &[]),
    ("minichat-metrics", &[]),
    ("minichat-thumbnail", &[]),
    ("minichat-config", &["minichat-core"]),
    ("minichat-identity", &["minichat-core"]),
    ("minichat-crds", &["minichat-config", "minichat-core"]),
    ("minichat-lease", &["minichat-core"]),
    (
        "minichat-telemetry",
        &["minichat-config", "minichat-metrics"],
    ),
    ("minichat-store", &["minichat-config", "minichat-core"]),
    ("minichat-provider", &["minichat-config", "minichat-core"]),
    (
        "minichat-dataplane",
        &[
            "minichat-config",
            "minichat-core",
            "minichat-crds",
            "minichat-identity",
            "minichat-lease",
            "minichat-metrics",
            "minichat-provider",
            "minichat-store",
            "minichat-telemetry",
            "minichat-thumbnail",
        ],
    ),
    (
        "minichat-operator",
        &[
            "minichat-config",
            "minichat-core",
            "minichat-crds",
            "minichat-lease",
            "minichat-metrics",
            "minichat-telemetry",
        ],
    ),
    (
        "minichat-tests",
        &[
            "minichat-cluster",
            "minichat-config",
            "minichat-core",
            "minichat-crds",
            "minichat-dataplane",
            "minichat-metrics",
            "minichat-operator",
            "minichat-provider",
            "minichat-scripted-provider",
            "minichat-store",
            "minichat-telemetry",
        ],
    ),
    ("minichat-cluster", &[]),
    ("minichat-scripted-provider", &[]),
    ("minichat-benches", &[]),
    ("xtask", &["minichat-cluster"]),
    (
        "xtask-generate",
        &[
            "minichat-config",
            "minichat-crds",
            "minichat-dataplane",
            "minichat-metrics",
        ],
    ),
];

/// The crates of the workspace that may depend on a heavy crate directly. `*` at the end of a name is a wildcard.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "axum",
        &[
            "minichat-dataplane",
            "minichat-operator",
            "minichat-telemetry",
            "minichat-tests",
        ],
    ),
    (
        "hyper",
        &[
            "minichat-benches",
            "minichat-dataplane",
            "minichat-provider",
            "minichat-scripted-provider",
            "minichat-telemetry",
            "minichat-tests",
        ],
    ),
    ("image", &["minichat-thumbnail"]),
    ("jiff", &["minichat-core"]),
    (
        "k8s-openapi",
        &[
            "minichat-crds",
            "minichat-dataplane",
            "minichat-lease",
            "minichat-operator",
            "minichat-tests",
        ],
    ),
    (
        "kube*",
        &[
            "minichat-crds",
            "minichat-dataplane",
            "minichat-lease",
            "minichat-operator",
            "minichat-tests",
        ],
    ),
    ("opentelemetry*", &["minichat-telemetry"]),
    ("p521", &["minichat-identity", "minichat-tests"]),
    ("prometheus", &["minichat-telemetry"]),
    (
        "rcgen",
        &[
            "minichat-cluster",
            "minichat-provider",
            "minichat-store",
            "minichat-telemetry",
            "minichat-tests",
        ],
    ),
    (
        "ring",
        &["minichat-dataplane", "minichat-identity", "minichat-tests"],
    ),
    ("rusqlite", &["minichat-store", "minichat-tests"]),
    (
        "schemars",
        &["minichat-core", "minichat-crds", "minichat-dataplane"],
    ),
    ("serde-saphyr", &["minichat-config"]),
    ("sqlx", &["minichat-store", "minichat-tests"]),
    (
        "tokio-rustls",
        &["minichat-provider", "minichat-telemetry", "minichat-tests"],
    ),
    ("tracing-opentelemetry", &["minichat-telemetry"]),
    ("tracing-subscriber", &["minichat-telemetry"]),
    ("ureq", &["xtask"]),
];

/// Crates that do no I/O and contain no async code, and the dependencies that they must not have, even indirectly.
const PURE: &[&str] = &["minichat-core", "minichat-metrics"];
const IMPURE: &[&str] = &[
    "axum",
    "hyper",
    "kube",
    "mio",
    "opentelemetry",
    "prometheus",
    "rusqlite",
    "rustls",
    "socket2",
    "tokio",
    "ureq",
];

/// Describes every broken rule.
pub(super) fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for member in graph.members() {
        found.extend(import_violations(graph, member));
        found.extend(owner_violations(graph, member));
    }
    for &pure in PURE {
        let closure = graph.transitive(pure);
        let impure = IMPURE.iter().filter(|name| closure.contains(*name));
        found.extend(impure.map(|name| format!("{pure} must stay pure, but depends on {name}")));
    }
    found
}

fn import_violations(graph: &Graph, member: &str) -> Vec<String> {
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == member) else {
        return vec![format!("{member} is missing from the table of imports")];
    };
    let imported = graph.direct(member).filter(|name| graph.is_member(name));
    let forbidden = imported.filter(|name| !allowed.contains(name));
    forbidden
        .map(|name| format!("{member} may not import {name}"))
        .collect()
}

fn owner_violations(graph: &Graph, member: &str) -> Vec<String> {
    let owners_of = |dependency: &str| OWNERS.iter().find(|(name, _)| covers(name, dependency));
    let foreign = graph.direct(member).filter_map(|dependency| {
        let (_, owners) = owners_of(dependency)?;
        let message = format!(
            "{member} may not use {dependency}, which belongs to {}",
            owners.join(", ")
        );
        (!owners.contains(&member)).then_some(message)
    });
    foreign.collect()
}

fn covers(name: &str, dependency: &str) -> bool {
    name.strip_suffix('*')
        .map_or(name == dependency, |prefix| dependency.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_import_is_named() {
        let graph = Graph::of(&[
            ("minichat-core", &[]),
            ("minichat-config", &[]),
            ("minichat-metrics", &["minichat-core"]),
        ]);
        assert_eq!(
            violations(&graph),
            ["minichat-metrics may not import minichat-core"]
        );
    }

    #[test]
    fn a_heavy_dependency_has_an_owner() {
        let graph = Graph::of(&[("minichat-config", &["opentelemetry_sdk"])]);
        assert_eq!(
            violations(&graph),
            ["minichat-config may not use opentelemetry_sdk, which belongs to minichat-telemetry"]
        );
    }

    #[test]
    fn a_pure_crate_may_not_reach_a_runtime_through_others() {
        let graph = Graph::of(&[("minichat-core", &["helper"]), ("helper", &["tokio"])]);
        assert!(
            violations(&graph)
                .contains(&"minichat-core must stay pure, but depends on tokio".to_owned())
        );
    }

    #[test]
    fn a_crate_nobody_thought_of_is_noticed() {
        assert_eq!(
            violations(&Graph::of(&[("new", &[])])),
            ["new is missing from the table of imports"]
        );
    }
}
