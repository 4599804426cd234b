//! Clients for the clusters of a test run.
//! `cargo xtask test` starts the clusters and passes their locations. A suite that must stop the API server starts its
//! own [`OwnedApiTier`](minichat_cluster::OwnedApiTier).

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, CustomResourceExt as _};
use minichat_cluster::{API_TIER, ApiTier, KUBECONFIG};
use minichat_crds::{ChatQuota, ChatTenant, generate};
use serde_json::json;
use uuid::Uuid;

const ESTABLISHED: &str = "--for=condition=Established";

/// The API tier that the suites of this run share.
pub fn api_tier() -> anyhow::Result<ApiTier> {
    let directory = env::var_os(API_TIER).with_context(|| {
        format!(
            "these tests need an API server: `cargo xtask test -p minichat-tests --test api_server` starts one; or run \
             `cargo xtask cluster up --tier api` and set {API_TIER} to the directory of the kubeconfig that it prints"
        )
    })?;
    ApiTier::open(Path::new(&directory))
}

/// Kubeconfig of the cluster with a node that the suites of this run share.
pub fn node_kubeconfig() -> anyhow::Result<PathBuf> {
    let kubeconfig = env::var_os(KUBECONFIG).with_context(|| {
        format!(
            "these tests need a cluster that runs pods: `cargo xtask test -p minichat-tests --test node` starts one as \
             root on Linux; or set {KUBECONFIG} to the kubeconfig of a cluster that you have (kind, k3d, …)"
        )
    })?;
    Ok(kubeconfig.into())
}

/// A client as the user of a kubeconfig; in the clusters of `minichat-cluster`, the administrator.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// A client as a `ServiceAccount`, with its rights only.
pub async fn service_account(
    kubeconfig: &Path,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Client> {
    let kubeconfig = as_service_account(kubeconfig, namespace, name).await?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(Client::try_from(config)?)
}

/// Writes the kubeconfig of a `ServiceAccount` to `into`, for a process.
pub async fn service_account_kubeconfig(
    kubeconfig: &Path,
    namespace: &str,
    name: &str,
    into: &Path,
) -> anyhow::Result<()> {
    let mut account = as_service_account(kubeconfig, namespace, name).await?;
    for context in &mut account.contexts {
        if let Some(context) = &mut context.context {
            context.namespace = Some(namespace.to_owned());
        }
    }
    // JSON is valid YAML.
    Ok(std::fs::write(into, serde_json::to_string(&account)?)?)
}

/// The same cluster with the token of a `ServiceAccount` instead of the administrator's rights.
async fn as_service_account(
    kubeconfig: &Path,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Kubeconfig> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client(kubeconfig).await?, namespace);
    let request = TokenRequest::default();
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await?;
    let token = answer
        .status
        .context("a token request without a token")?
        .token;
    let mut kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(AuthInfo {
            token: Some(token.clone().into()),
            ..AuthInfo::default()
        });
    }
    Ok(kubeconfig)
}

/// Installs the custom resources and waits until they are served.
pub fn install_definitions(tier: &ApiTier) -> anyhow::Result<()> {
    let definitions = [
        generate::definition::<ChatTenant>()?,
        generate::definition::<ChatQuota>()?,
    ];
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions});
    tier.kubectl().apply(&list)?;
    for crd in [ChatTenant::crd_name(), ChatQuota::crd_name()] {
        let crd = format!("crd/{crd}");
        let wait = ["wait", ESTABLISHED, "--timeout=60s", crd.as_str()];
        tier.kubectl().run(&wait)?;
    }
    Ok(())
}

async fn config(kubeconfig: &Path) -> anyhow::Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// A namespace for one test. [`TestNamespace::remove`] deletes it; if a test fails, it stays for inspection.
#[derive(Debug, Clone)]
pub struct TestNamespace {
    name: String,
}

impl TestNamespace {
    /// A new namespace whose name begins with `prefix`.
    pub async fn create(client: &Client, prefix: &str) -> anyhow::Result<Self> {
        let name = format!("{prefix}-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
        Ok(Self { name })
    }

    /// Makes it enforce the pod security standard `restricted`.
    pub async fn restrict(&self, client: &Client) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let label =
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(label));
        namespaces.patch(&self.name, &parameters, &patch).await?;
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it with everything in it, without waiting for the end.
    pub async fn remove(self, client: &Client) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(())
    }
}
