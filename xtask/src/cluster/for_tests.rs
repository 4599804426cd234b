//! The clusters of one run of `cargo xtask test`.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use minichat_cluster::node::Use;
use minichat_cluster::{API_TIER, KUBECONFIG, NodeTier, OwnedApiTier, Steps, node};

use crate::images::Images;
use crate::postgres::Reach;

/// Test binaries of `minichat-tests` that need an API server.
const ON_API_SERVER: &[&str] = &["api_server", "operator"];
/// Test binaries of `minichat-tests` that need a node, and the images.
const ON_NODE: &[&str] = &["node", "node_alone"];
/// Directory of the archives of the images.
const IMAGES: &str = "MINICHAT_TEST_IMAGES";
/// Tag of the images.
const IMAGE_TAG: &str = "MINICHAT_TEST_IMAGE_TAG";

/// The clusters that the suites of this run need.
pub(crate) struct Clusters {
    api: Option<OwnedApiTier>,
    node: Option<Node>,
}

struct Node {
    kubeconfig: PathBuf,
    images: Images,
    /// `None` on a cluster of your own.
    usage: Option<Use>,
}

impl Clusters {
    /// Starts the clusters for the tests that these `arguments` of `cargo test` may run. A missing part is an error.
    pub(crate) fn for_tests(arguments: &[String]) -> anyhow::Result<Self> {
        let reaches = |binaries: &[&str]| binaries.iter().any(|name| may_run(arguments, name));
        // First, because it fails at once if it is not possible.
        let node = reaches(ON_NODE).then(Node::find).transpose()?;
        let api = reaches(ON_API_SERVER)
            .then(OwnedApiTier::start)
            .transpose()?;
        Ok(Self { api, node })
    }

    /// A node with the images, whichever tests run.
    pub(crate) fn with_node() -> anyhow::Result<Self> {
        let node = Some(Node::find()?);
        Ok(Self { api: None, node })
    }

    /// Environment variables through which suites find the clusters.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let api = self
            .api
            .iter()
            .map(|tier| (API_TIER, tier.directory().into()));
        let node = self.node.iter().flat_map(|node| {
            [
                (KUBECONFIG, node.kubeconfig.clone().into()),
                (IMAGES, node.images.directory().into()),
                (IMAGE_TAG, node.images.tag().into()),
            ]
        });
        api.chain(node).collect()
    }

    /// Who connects to the tests' database: pods too, if they run on this machine's own node.
    pub(crate) fn reach(&self) -> Reach {
        match &self.node {
            Some(Node { usage: Some(_), .. }) => Reach::Pods,
            _ => Reach::Loopback,
        }
    }

    /// Stops the clusters, except a node that another run uses or that was started by hand.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let usage = self.node.and_then(|node| node.usage);
        usage.map_or(Ok(()), Use::end)
    }
}

impl Node {
    /// A cluster of your own with the images, or the one that runs on this machine, or a new one.
    fn find() -> anyhow::Result<Self> {
        let own = env::var_os(KUBECONFIG).filter(|value| !value.is_empty());
        if own.is_none() {
            node::require_root()?;
        }
        let images = Images::build()?;
        if let Some(own) = own {
            return Ok(Self {
                kubeconfig: own.into(),
                images,
                usage: None,
            });
        }
        let usage = Use::begin()?;
        let tier = NodeTier::up(&Steps::uncounted())?;
        images.load_into(&tier)?;
        Ok(Self {
            kubeconfig: tier.kubeconfig(),
            images,
            usage: Some(usage),
        })
    }
}

/// Whether `cargo test` with these arguments may run the integration test `binary` of `minichat-tests`.
pub(crate) fn may_run(arguments: &[String], binary: &str) -> bool {
    let ours = arguments.split(|argument| argument == "--").next();
    let ours = ours.unwrap_or_default();
    let named = |long: &str, short: &str| -> Vec<&str> {
        let mut values = Vec::new();
        for (i, argument) in ours.iter().enumerate() {
            let value = match argument.strip_prefix(long) {
                Some("") => ours.get(i + 1).map(String::as_str),
                Some(value) => value.strip_prefix('='),
                None if !short.is_empty() && argument == short => {
                    ours.get(i + 1).map(String::as_str)
                }
                None => None,
            };
            values.extend(value);
        }
        values
    };
    let packages = named("--package", "-p");
    if !packages.is_empty() && !packages.contains(&"minichat-tests") {
        return false;
    }
    let binaries = named("--test", "");
    if !binaries.is_empty() {
        return binaries.contains(&binary);
    }
    let others = [
        "--lib",
        "--bin",
        "--bins",
        "--doc",
        "--example",
        "--examples",
    ];
    !ours
        .iter()
        .any(|argument| others.contains(&argument.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(arguments: &str) -> bool {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        may_run(&arguments, "node")
    }

    #[test]
    fn a_cluster_is_started_when_a_suite_may_need_it() {
        assert!(may(""));
        assert!(may("some_name"));
        assert!(may("-p minichat-tests some_name"));
        assert!(may("--package=minichat-tests --test node"));
        assert!(may("--test=node -- --nocapture"));
        assert!(may("-- --lib"));
    }

    #[test]
    fn no_cluster_is_started_for_other_tests() {
        assert!(!may("-p minichat-store quota"));
        assert!(!may("-p minichat-tests --test blackbox"));
        assert!(!may("--package minichat-core"));
        assert!(!may("--lib"));
    }
}
