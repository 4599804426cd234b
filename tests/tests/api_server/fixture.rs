//! An API server with the custom resources, and a namespace of the test.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use minichat_cluster::ApiTier;
use minichat_crds::{GROUP, VERSION};
use minichat_tests::cluster::{self, TestNamespace};
use serde_json::{Value, json};

pub(crate) struct Fixture {
    pub(crate) tier: ApiTier,
    pub(crate) client: Client,
    pub(crate) namespace: TestNamespace,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let tier = cluster::api_tier().unwrap();
        cluster::install_definitions(&tier).unwrap();
        let client = cluster::client(&tier.kubeconfig()).await.unwrap();
        let namespace = TestNamespace::create(&client, "crds").await.unwrap();
        Self {
            tier,
            client,
            namespace,
        }
    }

    /// The objects of one kind in the namespace of the test.
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(GROUP, VERSION, kind);
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.client.clone(), self.namespace.name(), &resource)
    }

    /// `kubectl` in the namespace of the test.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let namespace = format!("--namespace={}", self.namespace.name());
        let arguments = [arguments, &[namespace.as_str()]].concat();
        self.tier.kubectl().run(&arguments)
    }

    pub(crate) async fn end(self) {
        self.namespace.remove(&self.client).await.unwrap();
    }

    /// How long the API server may take to apply a change.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
}

/// `manifest` in the test's namespace, called `name`.
pub(crate) fn object(manifest: &Value, namespace: &str, name: &str) -> DynamicObject {
    let mut manifest = manifest.clone();
    manifest["metadata"]["name"] = json!(name);
    manifest["metadata"]["namespace"] = json!(namespace);
    serde_json::from_value(manifest).unwrap()
}
