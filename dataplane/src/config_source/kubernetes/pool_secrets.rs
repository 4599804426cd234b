//! The pool to watch, and its cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use minichat_crds::rendered_secret::POOL_LABEL;

const CONNECT: Duration = Duration::from_secs(5);

/// The rendered Secrets of a pool.
#[derive(Clone)]
pub(in crate::config_source) struct PoolSecrets {
    pub(super) secrets: Api<Secret>,
    pub(super) selector: String,
    /// For messages: `main in namespace chat`.
    pub(super) name: String,
}

impl PoolSecrets {
    /// `pool` in `namespace` of the cluster in `kubeconfig`. Without these,
    /// cluster and namespace come from the environment: `KUBECONFIG`,
    /// `~/.kube/config`, or the pod's own.
    pub(in crate::config_source) async fn connect(
        pool: &str,
        namespace: Option<&str>,
        kubeconfig: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let mut config = cluster(kubeconfig).await?;
        config.connect_timeout = Some(CONNECT);
        // The watch retries by itself and logs it.
        config.default_retry = false;
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        let client = Client::try_from(config).context("no client for the API server")?;
        Ok(Self::new(client, &namespace, pool))
    }

    pub(super) fn new(client: Client, namespace: &str, pool: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            selector: format!("{POOL_LABEL}={pool}"),
            name: format!("{pool} in namespace {namespace}"),
        }
    }
}

async fn cluster(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = kubeconfig else {
        return Config::infer().await.context(
            "source.pool needs a cluster: run in a pod, set KUBECONFIG, or give source.kubeconfig",
        );
    };
    let unusable = || format!("source.kubeconfig: {} is not usable", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(unusable)?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .with_context(unusable)
}
