//! The dependency graph, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Direct dependencies by package name, without test dependencies.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version=1`.
    pub(super) fn parse(json: &[u8]) -> serde_json::Result<Self> {
        let metadata: Metadata = serde_json::from_slice(json)?;
        let name_of: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (&*package.id, &*package.name))
            .collect();
        let name = |id: &str| {
            name_of
                .get(id)
                .map_or_else(|| id.to_owned(), |name| (*name).to_owned())
        };
        let mut graph = Self::default();
        for node in &metadata.resolve.nodes {
            let wanted = node.deps.iter().filter(|dependency| dependency.is_linked());
            let edges = graph.edges.entry(name(&node.id)).or_default();
            edges.extend(wanted.map(|dependency| name(&dependency.pkg)));
        }
        graph.members = metadata
            .workspace_members
            .iter()
            .map(|id| name(id))
            .collect();
        Ok(graph)
    }

    /// Packages of this workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// Whether the package is of this workspace.
    pub(super) fn is_member(&self, package: &str) -> bool {
        self.members.contains(package)
    }

    /// The direct dependencies of a package.
    pub(super) fn direct(&self, package: &str) -> impl Iterator<Item = &str> {
        self.edges
            .get(package)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// All direct and indirect dependencies of a package, without itself.
    pub(super) fn transitive<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            open.extend(
                self.direct(next)
                    .filter(|dependency| seen.insert(*dependency)),
            );
        }
        seen
    }

    /// Adds dependencies to those of `package`.
    pub(super) fn add(&mut self, package: &str, dependencies: BTreeSet<String>) {
        self.members.insert(package.to_owned());
        let edges = self.edges.entry(package.to_owned()).or_default();
        edges.extend(dependencies);
    }

    #[cfg(test)]
    pub(super) fn of(edges: &[(&str, &[&str])]) -> Self {
        let mut graph = Self::default();
        for (package, dependencies) in edges {
            graph.members.insert((*package).to_owned());
            let dependencies = dependencies.iter().map(|name| (*name).to_owned());
            graph
                .edges
                .insert((*package).to_owned(), dependencies.collect());
        }
        graph
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Dependency {
    /// Whether it becomes part of the build (or of a build script), not only of
    /// tests.
    fn is_linked(&self) -> bool {
        self.dep_kinds
            .iter()
            .any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_dependencies_are_no_edges() {
        let json = br#"{"packages":[{"id":"a 1","name":"a"},{"id":"b 1","name":"b"},{"id":"c 1","name":"c"}],
            "workspace_members":["a 1"],
            "resolve":{"nodes":[{"id":"a 1","deps":[
                {"pkg":"b 1","dep_kinds":[{"kind":"dev"}]},
                {"pkg":"c 1","dep_kinds":[{"kind":"dev"},{"kind":null}]}]}]}}"#;
        let graph = Graph::parse(json).unwrap();
        assert_eq!(graph.direct("a").collect::<Vec<_>>(), ["c"]);
        assert!(graph.is_member("a") && !graph.is_member("c"));
    }

    #[test]
    fn the_closure_ends_in_a_circle() {
        let graph = Graph::of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(
            graph.transitive("a").into_iter().collect::<Vec<_>>(),
            ["b", "c"]
        );
    }
}
