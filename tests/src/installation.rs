//! minichat as users install it: from charts and images, on a cluster with a node. Each installation has its own
//! namespaces, which enforce the pod security standard `restricted`.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kube::Client;
use minichat_cluster::{Helm, Kubectl};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::client::Api;
use crate::cluster::{self, TestNamespace};
use crate::exposition::Scrape;
use crate::manifest::Tenant;

/// Directory of the image archives.
pub const IMAGES: &str = "MINICHAT_TEST_IMAGES";
/// Tag of the images in the cluster.
pub const IMAGE_TAG: &str = "MINICHAT_TEST_IMAGE_TAG";

/// Name of the release, with which the names of its objects begin.
const RELEASE: &str = "minichat";
const PROVIDER: &str = "scripted-provider";
const PROVIDER_MANIFEST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/scripted-provider/deployment.yaml"
);
/// No image is pulled, so a pod that takes longer hangs.
const STARTS_WITHIN: &str = "--timeout=120s";
const EVENTUALLY_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

const GATEWAY_HEADER: &str = "x-gateway-secret";
const GATEWAY_SECRET: &str = "0b9f6a1e-only-the-gateway-knows";

/// A release of the chart, with a scripted provider in its namespace and the tenants' objects in another.
#[derive(Clone)]
pub struct Installation {
    /// As the cluster's administrator.
    pub client: Client,
    /// As the cluster's administrator.
    pub kubectl: Kubectl,
    helm: Helm,
    namespace: TestNamespace,
    tenants: TestNamespace,
}

/// Directory of the image archives of this run.
pub fn images() -> anyhow::Result<PathBuf> {
    let directory = env::var_os(IMAGES).with_context(|| {
        format!("{IMAGES} is not set: `cargo xtask test -p minichat-tests --test node` builds the images and sets it")
    })?;
    Ok(directory.into())
}

/// Tag of the images of this run.
pub fn image_tag() -> anyhow::Result<String> {
    env::var(IMAGE_TAG).with_context(|| {
        format!("{IMAGE_TAG} is not set: `cargo xtask test -p minichat-tests --test node` builds the images and sets it")
    })
}

impl Installation {
    /// Prepares a namespace with the provider and without a release. The custom resources are in the cluster.
    pub async fn prepare(prefix: &str) -> anyhow::Result<Self> {
        let kubeconfig = cluster::node_kubeconfig()?;
        let client = cluster::client(&kubeconfig).await?;
        let helm = Helm::new(&kubeconfig)?;
        define_resources(&helm).await?;
        let namespace = TestNamespace::create(&client, prefix).await?;
        namespace.restrict(&client).await?;
        let tenants = TestNamespace::create(&client, &format!("{prefix}-tenants")).await?;
        let installation = Self {
            client,
            kubectl: Kubectl::new(&kubeconfig)?,
            helm,
            namespace,
            tenants,
        };
        installation.start_provider()?;
        installation.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gateway"},
            "stringData": {"shared-secret": GATEWAY_SECRET},
        }))?;
        Ok(installation)
    }

    /// The same with a release whose pods are ready. `values` take precedence over [`Self::values`].
    pub async fn start(prefix: &str, values: Value) -> anyhow::Result<Self> {
        let installation = Self::prepare(prefix).await?;
        installation.upgrade(values)?;
        Ok(installation)
    }

    /// Its name.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// The name of the namespace of the tenants' objects.
    pub fn tenants(&self) -> &str {
        self.tenants.name()
    }

    /// The values of every installation in the tests: the images of this run, tenants in one namespace, callers with
    /// the gateway's secret, and pods that end as soon as their streams have.
    pub fn values(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "image": {"tag": image_tag()?},
            "operator": {"namespaces": [self.tenants()]},
            "outbound": {"allowPrivate": [format!(".{}.svc.cluster.local", self.namespace())]},
            "pool": {
                "sharedSecret": {"existingSecret": "gateway"},
                "config": {
                    "auth": {"mode": "trusted_headers", "trusted_peers": [], "shared_secret_header": GATEWAY_HEADER},
                    "provider_http": {"allow_http": true},
                    "drain": {"min_secs": 0, "max_secs": 60},
                    "server": {"rate_limit": {"per_second": 0, "burst": 0}},
                },
            },
        }))
    }

    /// Installs or upgrades the release and waits until its pods are ready.
    pub fn upgrade(&self, values: Value) -> anyhow::Result<()> {
        let mut all = self.values()?;
        merge(&mut all, values);
        let file = tempfile::NamedTempFile::new()?;
        serde_json::to_writer(file.as_file(), &all)?;
        let file = file.path().to_str().context("a path that is not UTF-8")?;
        let chart = chart("minichat");
        let install = ["upgrade", "--install", RELEASE, &chart, "--values", file];
        let installed = self.helm(&[&install, &["--wait", STARTS_WITHIN][..]].concat());
        installed.map(drop).with_context(|| self.state_of_pods())
    }

    /// The same with `replicas` pods on the PostgreSQL database at `url`.
    pub fn on_postgres(&self, url: &str, replicas: usize, values: Value) -> anyhow::Result<()> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
            "stringData": {"url": url},
        }))?;
        let mut all = json!({
            "database": {"existingSecret": "database"},
            "pool": {"replicaCount": replicas},
        });
        merge(&mut all, values);
        self.upgrade(all)
    }

    /// Runs Helm in this namespace and returns its output.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let namespace = ["--namespace", self.namespace()];
        self.helm.run(&[arguments, &namespace].concat())
    }

    /// Runs kubectl in this namespace and returns its output.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let namespace = ["--namespace", self.namespace()];
        self.kubectl.run(&[&namespace, arguments].concat())
    }

    /// Runs kubectl in the tenants' namespace and returns its output.
    pub fn kubectl_of_tenants(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let namespace = ["--namespace", self.tenants()];
        self.kubectl.run(&[&namespace, arguments].concat())
    }

    /// Applies an object of this namespace.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        self.apply_to(self.namespace(), object)
    }

    fn apply_to(&self, namespace: &str, object: &Value) -> anyhow::Result<()> {
        let mut object = object.clone();
        object["metadata"]["namespace"] = namespace.into();
        self.kubectl.apply(&object)
    }

    /// A tenant on the scripted provider, not yet applied.
    pub fn tenant(&self, name: &str) -> Tenant {
        let mut tenant = Tenant::new(name, SocketAddr::from(([127, 0, 0, 1], 9)));
        tenant.spec()["providers"][0]["baseUrl"] = self.provider_url().into();
        tenant
    }

    /// Applies a tenant with its quotas and Secrets and waits until it is ready.
    pub fn admit(&self, tenant: &Tenant) -> anyhow::Result<()> {
        for object in tenant.others.iter().chain([&tenant.resource]) {
            self.apply_to(self.tenants(), object)?;
        }
        self.await_ready(&tenant.name)
    }

    /// Waits until the tenant called `name` is ready.
    pub fn await_ready(&self, name: &str) -> anyhow::Result<()> {
        let tenant = format!("chattenant/{name}");
        let wait = ["wait", "--for=condition=Ready", &tenant, "--timeout=60s"];
        let waited = self.kubectl_of_tenants(&wait);
        waited.map(drop).with_context(|| {
            let tenant = self.kubectl_of_tenants(&["get", &tenant, "--output=yaml"]);
            tenant.unwrap_or_else(|error| error.to_string())
        })
    }

    /// Waits until the operator has made the `CronJob` called `name`.
    pub fn await_cron_job(&self, name: &str) -> anyhow::Result<()> {
        let cron_job = format!("cronjob/{name}");
        let made = ["wait", "--for=create", &cron_job, "--timeout=60s"];
        let made = self.kubectl(&made);
        made.map(drop).with_context(|| self.state_of_pods())
    }

    /// URL of the provider, for tenants.
    pub fn provider_url(&self) -> String {
        format!("http://{PROVIDER}.{}.svc:18080", self.namespace())
    }

    /// The provider's control calls.
    pub fn provider(&self) -> anyhow::Result<Api> {
        Ok(Api::new(self.service(PROVIDER, 18080)?))
    }

    /// The pool behind its Service, called as a gateway that names the user.
    pub fn api(&self, tenant: Uuid, user: Uuid) -> anyhow::Result<Api> {
        self.gateway(self.service("minichat-pool", 8087)?, tenant, user)
    }

    /// The same, after the Service reaches pods that serve the tenant.
    pub async fn serving(&self, tenant: Uuid, user: Uuid) -> anyhow::Result<Api> {
        let api = self.api(tenant, user)?;
        let served = async || Ok(api.get("/models").await?.status == 200);
        eventually("serving the tenant", served).await?;
        Ok(api)
    }

    /// One address of the pool, called as the gateway.
    pub fn gateway(&self, address: SocketAddr, tenant: Uuid, user: Uuid) -> anyhow::Result<Api> {
        Api::new(address)
            .with_header(GATEWAY_HEADER, GATEWAY_SECRET)?
            .acting_as(tenant, user)
    }

    /// Addresses of the pods of a component that are not terminating: `pool` or `operator`.
    pub fn pods(&self, component: &str) -> anyhow::Result<Vec<Pod>> {
        let selector = format!("--selector=app.kubernetes.io/component={component}");
        let pods = self.kubectl(&["get", "pods", &selector, "--output=json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let pods = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods.map(Pod::of).collect()
    }

    /// The metrics of the only pod of a component.
    pub async fn metrics(&self, component: &str) -> anyhow::Result<Scrape> {
        let pods = self.pods(component)?;
        let [pod] = pods.as_slice() else {
            bail!("{} pods of {component} instead of one", pods.len());
        };
        pod.metrics().await
    }

    /// Deletes the release and the namespaces, without waiting for the end of the latter.
    pub async fn remove(self) -> anyhow::Result<()> {
        // The ClusterRoles of an installation are in no namespace.
        let _ = self.helm(&["uninstall", RELEASE, "--ignore-not-found"])?;
        self.tenants.remove(&self.client).await?;
        self.namespace.remove(&self.client).await
    }

    fn start_provider(&self) -> anyhow::Result<()> {
        let manifest = fs::read_to_string(PROVIDER_MANIFEST)?;
        let image = format!("minichat-scripted-provider:{}", env!("CARGO_PKG_VERSION"));
        let ours = format!("minichat-scripted-provider:{}", image_tag()?);
        let manifest = manifest.replace(&image, &ours);
        let apply = ["apply", "--filename=-", "--namespace", self.namespace()];
        self.kubectl.run_with_input(&apply, &manifest)?;
        let provider = format!("deployment/{PROVIDER}");
        let started = self.kubectl(&["rollout", "status", &provider, STARTS_WITHIN]);
        started.map(drop).with_context(|| self.state_of_pods())
    }

    fn service(&self, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let address = "--output=jsonpath={.spec.clusterIP}";
        let address = self.kubectl(&["get", "service", name, address])?;
        Ok(SocketAddr::new(address.parse()?, port))
    }

    /// For the message of a failed test.
    fn state_of_pods(&self) -> String {
        let commands = [
            ["get", "pods", "--output=wide"].as_slice(),
            &["get", "events", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "--selector=app.kubernetes.io/part-of=minichat",
                "--tail=20",
                "--prefix",
            ],
        ];
        let answers = commands.map(|arguments| match self.kubectl(arguments) {
            Ok(text) => text,
            Err(error) => format!("{error:#}"),
        });
        answers.join("\n")
    }
}

/// A running pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub address: std::net::IpAddr,
}

impl Pod {
    fn of(pod: &Value) -> anyhow::Result<Self> {
        let name = pod["metadata"]["name"].as_str();
        let address = pod["status"]["podIP"].as_str();
        Ok(Self {
            name: name.context("a pod without a name")?.to_owned(),
            address: address.context("a pod without an address")?.parse()?,
        })
    }

    /// Its admin listener.
    pub fn admin(&self) -> Api {
        Api::new(SocketAddr::new(self.address, 9090))
    }

    /// Its metrics.
    pub async fn metrics(&self) -> anyhow::Result<Scrape> {
        let answer = self.admin().get_absolute("/metrics").await?;
        Scrape::parse(std::str::from_utf8(&answer.body)?)
    }
}

/// Calls `condition` until it returns true. An error counts as false, and is reported when the time is over.
pub async fn eventually(
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let answer = condition().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() > EVENTUALLY_LIMIT {
            answer.with_context(|| what.to_owned())?;
            bail!("not {what} within {EVENTUALLY_LIMIT:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Installs the chart of the custom resource definitions, once for all tests.
async fn define_resources(helm: &Helm) -> anyhow::Result<()> {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    let define = async || -> anyhow::Result<()> {
        let chart = chart("minichat-crds");
        let install = ["upgrade", "--install", "minichat-crds", &chart];
        helm.run(&[&install, &["--namespace", "default", "--wait"][..]].concat())?;
        Ok(())
    };
    DEFINED.get_or_try_init(define).await?;
    Ok(())
}

/// The directory of a chart of this workspace.
fn chart(name: &str) -> String {
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts");
    charts.join(name).display().to_string()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
