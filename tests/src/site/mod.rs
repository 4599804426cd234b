//! An API server with the chart's objects except pods: `ServiceAccounts`, roles, and the settings of both processes.

mod cron_jobs;
mod job;
mod lossy;
mod place;
mod pod;
mod process;
mod rights;
mod silent;
mod watchdog;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::{self, TestNamespace};
use crate::database::{Database, DatabaseKind};
use crate::manifest::Tenant;
use crate::scripted_provider::ScriptedProvider;
use anyhow::{Context as _, anyhow};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use minichat_cluster::programs::kubernetes_version;
use minichat_cluster::{ApiTier, Helm, OwnedApiTier, Write};
use minichat_config::yaml;
use minichat_crds::chat_tenant::DEFAULT_POOL;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

pub use lossy::LossyWay;
pub use place::Place;
pub use pod::Pod;
use pod::Template;
use process::Held;
pub use process::Operator;
pub use silent::SilentWay;
pub use watchdog::Watchdog;

/// A generous time limit, for what has no limit in seconds.
pub const WITHIN: Duration = Duration::from_mins(1);
/// The kubeconfig of a site's data planes.
const POOL_KUBECONFIG: &str = "pool.kubeconfig";
/// The operator's directory of manifests.
const MANAGED_DIR: &str = "MINICHAT_OPERATOR_MANAGED_DIR";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/minichat");

/// The programs that run against the API server.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `minichat-operator`.
    pub operator: PathBuf,
    /// `minichat-dataplane`.
    pub dataplane: PathBuf,
}

/// The namespaces of operator, pool and tenants.
pub struct Site {
    programs: Programs,
    tier: Tier,
    pub client: Client,
    /// The namespace of operator and pool.
    pub namespace: String,
    /// The namespace of the tenants.
    pub tenants: String,
    pub provider: ScriptedProvider,
    pub database: Database,
    directory: TempDir,
    /// The name of the pool.
    pool: String,
    chart: Vec<Value>,
}

/// The settings of the chart.
struct Release<'a> {
    name: &'a str,
    pool: &'a str,
    /// The namespace of operator and pool; `None` for a new one.
    namespace: Option<&'a str>,
    /// The namespace of tenants; `None` for a new one.
    tenants: Option<&'a str>,
    /// Further namespaces of tenants.
    also: &'a [String],
    /// Whether the operator may read every namespace, even on a shared API server.
    is_everywhere: bool,
}

impl Default for Release<'_> {
    fn default() -> Self {
        Self {
            name: "minichat",
            pool: DEFAULT_POOL,
            namespace: None,
            tenants: None,
            also: &[],
            is_everywhere: false,
        }
    }
}

enum Tier {
    Shared(ApiTier),
    Own(OwnedApiTier),
}

impl Deref for Tier {
    type Target = ApiTier;

    fn deref(&self) -> &ApiTier {
        match self {
            Self::Shared(tier) => tier,
            Self::Own(tier) => tier,
        }
    }
}

impl Site {
    /// On the API server of the run, next to other suites: the operator may read one namespace.
    pub async fn shared(programs: Programs, kind: DatabaseKind) -> anyhow::Result<Self> {
        let tier = Tier::Shared(cluster::api_tier()?);
        Self::on(programs, tier, kind, &Release::default()).await
    }

    /// The same with a second namespace for tenants, whose name is returned.
    pub async fn shared_by_two(
        programs: Programs,
        kind: DatabaseKind,
    ) -> anyhow::Result<(Self, String)> {
        let tier = cluster::api_tier()?;
        let client = cluster::client(&tier.kubeconfig()).await?;
        let second = TestNamespace::create(&client, "second").await?;
        let second = second.name().to_owned();
        let release = Release {
            also: std::slice::from_ref(&second),
            ..Release::default()
        };
        let site = Self::on(programs, Tier::Shared(tier), kind, &release).await?;
        Ok((site, second))
    }

    /// On its own API server: the operator may read every namespace, which is the chart's default.
    pub async fn own(programs: Programs, kind: DatabaseKind) -> anyhow::Result<Self> {
        let tier = tokio::task::spawn_blocking(OwnedApiTier::start).await??;
        Self::on(programs, Tier::Own(tier), kind, &Release::default()).await
    }

    /// Another release on the same API server with the same rights, for the tenants of `pool` in the same namespace.
    pub async fn another_release(&self, kind: DatabaseKind, pool: &str) -> anyhow::Result<Self> {
        let tier = Tier::Shared(ApiTier::open(self.tier.directory())?);
        let release = Release {
            pool,
            tenants: Some(&self.tenants),
            is_everywhere: self.is_everywhere(),
            ..Release::default()
        };
        Self::on(self.programs.clone(), tier, kind, &release).await
    }

    /// The same, in the namespace of this release.
    pub async fn release_beside(&self, kind: DatabaseKind, pool: &str) -> anyhow::Result<Self> {
        let tier = Tier::Shared(ApiTier::open(self.tier.directory())?);
        let release = Release {
            name: "second",
            pool,
            namespace: Some(&self.namespace),
            tenants: Some(&self.tenants),
            is_everywhere: self.is_everywhere(),
            ..Release::default()
        };
        Self::on(self.programs.clone(), tier, kind, &release).await
    }

    fn is_everywhere(&self) -> bool {
        self.chart("ClusterRole").is_ok()
    }

    async fn on(
        programs: Programs,
        tier: Tier,
        kind: DatabaseKind,
        release: &Release<'_>,
    ) -> anyhow::Result<Self> {
        cluster::install_definitions(&tier)?;
        let client = cluster::client(&tier.kubeconfig()).await?;
        let namespace = namespace_of(&client, release.namespace, "chat").await?;
        let tenants = namespace_of(&client, release.tenants, "acme").await?;
        let mut scope = vec![format!("pool.name={}", release.pool)];
        if !release.is_everywhere && matches!(tier, Tier::Shared(_)) {
            let namespaces = [std::slice::from_ref(&tenants), release.also].concat();
            scope.push(format!("operator.namespaces={{{}}}", namespaces.join(",")));
        }
        let directory = TempDir::with_prefix("minichat-site-")?;
        let site = Self {
            programs,
            chart: rendered(&tier.kubeconfig(), release.name, &namespace, &scope)?,
            tier,
            client,
            namespace,
            tenants,
            pool: release.pool.to_owned(),
            provider: ScriptedProvider::start().await?,
            database: Database::create(kind, directory.path()).await?,
            directory,
        };
        let is_right = |object: &&Value| {
            let kind = object["kind"].as_str().unwrap_or_default();
            kind == "ServiceAccount" || kind == "ConfigMap" || kind.contains("Role")
        };
        let rights: Vec<&Value> = site.chart.iter().filter(is_right).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": rights});
        site.tier.kubectl().apply(&list)?;
        Ok(site)
    }

    pub fn tier(&self) -> &ApiTier {
        &self.tier
    }

    /// The operator's writes, including refused ones, except those of its Lease.
    pub fn operator_writes(&self) -> anyhow::Result<Vec<Write>> {
        let user = self.operator_user()?;
        let writes = self.tier().writes()?.into_iter();
        let is_it = |write: &Write| write.user == user && write.resource != "leases";
        Ok(writes.filter(is_it).collect())
    }

    /// The chart's object of `kind`.
    pub fn chart(&self, kind: &str) -> anyhow::Result<&Value> {
        let found = self.chart.iter().find(|object| object["kind"] == kind);
        found.with_context(|| format!("the chart has no {kind}"))
    }

    fn account(&self, kind: &str) -> anyhow::Result<String> {
        let account = &self.chart(kind)?["spec"]["template"]["spec"]["serviceAccountName"];
        Ok(account.as_str().context("no ServiceAccount")?.to_owned())
    }

    /// Starts an operator under the chart's `ServiceAccount`, with the chart's variables.
    pub async fn operator(&self) -> anyhow::Result<Operator> {
        self.operator_with(&[]).await
    }

    /// The Lease of the operator.
    pub fn lease(&self) -> String {
        format!("minichat-operator-{}", self.pool)
    }

    /// The same with other variables; names are without `MINICHAT_OPERATOR_`.
    pub async fn operator_with(&self, overrides: &[(&str, &str)]) -> anyhow::Result<Operator> {
        let kubeconfig = self.kubeconfig("Deployment").await?;
        self.start_operator(&kubeconfig, overrides).await
    }

    async fn start_operator(
        &self,
        kubeconfig: &Path,
        overrides: &[(&str, &str)],
    ) -> anyhow::Result<Operator> {
        let mut variables = self.operator_variables()?;
        // Its pod mounts a ConfigMap there.
        variables.remove(MANAGED_DIR);
        let mut set = |name: &str, value: String| {
            variables.insert(format!("MINICHAT_OPERATOR_{name}"), value);
        };
        let identity = format!("operator-{}", unique());
        set("IDENTITY", identity.clone());
        for (name, value) in overrides {
            set(name, (*value).to_owned());
        }
        Operator::start(
            &self.programs.operator,
            variables,
            kubeconfig,
            self.log("operator"),
            Held {
                leases: Api::namespaced(self.client.clone(), &self.namespace),
                name: self.lease(),
                identity,
            },
        )
        .await
    }

    /// The chart's variables of the operator that have a value.
    fn operator_variables(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let container = &self.chart("Deployment")?["spec"]["template"]["spec"]["containers"][0];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let variables = container["env"].as_array().into_iter().flatten();
        let pairs = variables.filter_map(|one| Some((text(&one["name"])?, text(&one["value"])?)));
        Ok(pairs.collect())
    }

    /// Starts a data plane of the pool under the chart's `ServiceAccount`; `settings` are variables, one per line.
    pub async fn process_of_a_pod(&self, settings: &str) -> anyhow::Result<Pod> {
        let kubeconfig = self.directory.path().join(POOL_KUBECONFIG);
        if !kubeconfig.exists() {
            std::fs::copy(self.kubeconfig("StatefulSet").await?, &kubeconfig)?;
        }
        let set = self.chart("StatefulSet")?;
        let database_url = self.database.url();
        let template = Template {
            program: &self.programs.dataplane,
            client: &self.client,
            namespace: &self.namespace,
            pool: &self.pool,
            labels: &set["spec"]["template"]["metadata"]["labels"],
            kubeconfig: &kubeconfig,
            database_url: &database_url,
            settings,
        };
        Pod::start(&template, self.log("pod")).await
    }

    /// A ready data plane whose pod is registered.
    pub async fn pod(&self) -> anyhow::Result<Pod> {
        let pod = self.process_of_a_pod("").await?;
        pod.register().await?;
        pod.become_ready().await?;
        Ok(pod)
    }

    pub async fn pods(&self, count: usize) -> anyhow::Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for _ in 0..count {
            pods.push(self.pod().await?);
        }
        Ok(pods)
    }

    async fn kubeconfig(&self, workload: &str) -> anyhow::Result<PathBuf> {
        self.kubeconfig_of(&self.account(workload)?).await
    }

    /// The kubeconfig of a `ServiceAccount`.
    async fn kubeconfig_of(&self, account: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join(format!("{account}.kubeconfig"));
        let admin = self.tier.kubeconfig();
        cluster::service_account_kubeconfig(&admin, &self.namespace, account, &path).await?;
        Ok(path)
    }

    fn log(&self, name: &str) -> PathBuf {
        let file = format!("{name}-{}.log", unique());
        self.directory.path().join(file)
    }

    /// The tenants' namespace.
    pub fn home(&self) -> Place<'_> {
        self.place(&self.tenants)
    }

    pub fn place<'a>(&'a self, namespace: &'a str) -> Place<'a> {
        Place {
            site: self,
            namespace,
        }
    }

    /// A tenant whose objects are for the tenants' namespace.
    pub fn tenant(&self, name: &str) -> Tenant {
        self.home().tenant(name)
    }

    /// The tenant's default quota: whole credits per day for standard models.
    pub fn quota(&self, tenant: &Tenant, daily: u64) -> Value {
        json!({
            "apiVersion": "minichat.dev/v1alpha1",
            "kind": "ChatQuota",
            "metadata": {"name": format!("{}-default", tenant.name), "namespace": self.tenants},
            "spec": {
                "tenantRef": {"name": tenant.name},
                "limits": {"standard": {"daily": daily.to_string(), "monthly": "100000"}},
            },
        })
    }

    /// Applies the objects of `tenant`.
    pub async fn apply_tenant(&self, tenant: &Tenant) -> anyhow::Result<()> {
        for object in tenant.others.iter().chain([&tenant.resource]) {
            self.apply(object).await?;
        }
        Ok(())
    }

    /// Applies `tenants` one after the other, and waits until each is ready.
    pub async fn admit(&self, tenants: impl IntoIterator<Item = &Tenant>) -> anyhow::Result<()> {
        for tenant in tenants {
            self.apply_tenant(tenant).await?;
            self.await_ready(tenant).await?;
        }
        Ok(())
    }

    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let metadata = &object["metadata"];
        let api = self.objects(object, metadata["namespace"].as_str().unwrap_or_default())?;
        let name = metadata["name"].as_str().context("no name")?;
        let parameters = PatchParams::apply("tests").force();
        api.patch(name, &parameters, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// The object of `kind` in the tenants' namespace; `None` if it does not exist.
    pub async fn get(&self, kind: &str, name: &str) -> anyhow::Result<Option<Value>> {
        self.home().get(kind, name).await
    }

    pub async fn delete(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        self.home().delete(kind, name).await
    }

    pub fn api(&self, kind: &str, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let version = match kind {
            "ChatTenant" | "ChatQuota" => "minichat.dev/v1alpha1",
            "Event" => "events.k8s.io/v1",
            "CronJob" | "Job" => "batch/v1",
            _ => "v1",
        };
        self.objects(&json!({"apiVersion": version, "kind": kind}), namespace)
    }

    fn objects(&self, like: &Value, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let text = |key: &str| like[key].as_str().context(format!("no {key}"));
        let version = text("apiVersion")?;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, text("kind")?);
        let resource = ApiResource::from_gvk(&kind);
        Ok(Api::namespaced_with(
            self.client.clone(),
            namespace,
            &resource,
        ))
    }

    /// The rendered Secret of `tenant`.
    pub async fn rendered(&self, tenant: &Tenant) -> anyhow::Result<Option<Value>> {
        let api = self.api("Secret", &self.namespace)?;
        let found = api
            .get_opt(&format!("minichat-tenant-{}", tenant.id))
            .await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// The writers of the object: field managers and the subresource that each wrote.
    pub fn managers(object: &Value) -> Vec<(String, String)> {
        let fields = object["metadata"]["managedFields"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let fields = fields.into_iter().flatten();
        fields
            .map(|one| (text(&one["manager"]), text(&one["subresource"])))
            .collect()
    }

    /// Waits until the condition of the object is `wanted`: `<status>/<reason>`. Returns its message.
    pub async fn await_condition(
        &self,
        object: (&str, &str),
        type_: &str,
        wanted: &str,
    ) -> anyhow::Result<String> {
        self.home().await_condition(object, type_, wanted).await
    }

    pub async fn await_ready(&self, tenant: &Tenant) -> anyhow::Result<()> {
        self.home().await_ready(tenant).await
    }

    /// The status of `tenant`.
    pub async fn status(&self, tenant: &Tenant) -> anyhow::Result<Value> {
        self.home().status(tenant).await
    }

    /// Reasons of the events about the object called `name`, in order.
    pub async fn events(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let found = self.events_in(&self.tenants, name).await?;
        Ok(found.into_iter().map(|(reason, _)| reason).collect())
    }

    /// Reasons and notes of minichat's events about the object called `name` in `namespace`, in order.
    pub async fn events_in(
        &self,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let api = self.api("Event", namespace)?;
        let mut found: Vec<[String; 3]> = Vec::new();
        for event in api.list(&ListParams::default()).await?.items {
            let by_us = event.data["reportingController"] == "minichat.dev/minichat-operator";
            if by_us && event.data["regarding"]["name"] == name {
                let text = |key: &str| event.data[key].as_str().unwrap_or_default().to_owned();
                found.push(["eventTime", "reason", "note"].map(text));
            }
        }
        found.sort();
        Ok(found
            .into_iter()
            .map(|[_, reason, note]| (reason, note))
            .collect())
    }
}

/// The name of `existing`, or of a new namespace.
async fn namespace_of(
    client: &Client,
    existing: Option<&str>,
    prefix: &str,
) -> anyhow::Result<String> {
    if let Some(existing) = existing {
        return Ok(existing.to_owned());
    }
    let new = TestNamespace::create(client, prefix).await?;
    Ok(new.name().to_owned())
}

/// A unique text.
fn unique() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// Waits until `condition` holds.
pub async fn eventually(
    what: &str,
    limit: Duration,
    condition: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !condition().await? {
        anyhow::ensure!(started.elapsed() < limit, "not {what} within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Status and reason of a condition, as `True/Ready`, and its message.
pub fn condition(object: &Value, type_: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == type_)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((
        format!("{}/{}", text("status"), text("reason")),
        text("message"),
    ))
}

/// The chart's objects with its default values, for a namespace.
fn rendered(
    kubeconfig: &Path,
    name: &str,
    namespace: &str,
    settings: &[String],
) -> anyhow::Result<Vec<Value>> {
    let mut arguments = vec!["template", name, CHART, "--namespace", namespace];
    let version = kubernetes_version()?;
    arguments.extend(["--kube-version", &version]);
    arguments.extend(["--set", "pool.config.provider_http.allow_http=true"]);
    arguments.extend(["--set", "outbound.allowPrivate={127.0.0.0/8}"]);
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    let text = Helm::new(kubeconfig)?.run(&arguments)?;
    let documents = yaml::documents(&text)
        .into_iter()
        .map(|document| document.value);
    documents
        .collect::<Result<_, _>>()
        .map_err(|fault| anyhow!("{fault}"))
}
