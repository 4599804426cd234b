//! Several pods of a pool on one PostgreSQL, with one tenant, and streams that stay open until the test releases them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api as Objects, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::Api;
use crate::installation::{Installation, Pod, eventually};
use crate::manifest::Tenant;
use crate::postgres::PostgresDatabase;
use crate::scripted_provider::Scenario;
use crate::sse::Events;

/// More than any test spends, in micro-credits, per day and per month.
const PLENTY: (i64, i64) = (1_000_000_000_000, 10_000_000_000_000);

/// Metric family of completed streams.
pub const COMPLETED: &str = "mini_chat_stream_completed_total";
/// Much longer than a Service takes to reach a pod that is ready.
const REACHED_WITHIN: Duration = Duration::from_mins(1);

/// A pool, its tenant and its database.
pub struct PostgresPool {
    pub installation: Installation,
    pub database: PostgresDatabase,
    pub tenant: Tenant,
    pub pods: Vec<Pod>,
}

/// A chat whose answer was read completely.
pub struct Answered {
    pub api: Api,
    pub chat: String,
    pub events: Events,
}

/// Running streams, each of another user.
pub type Streams = JoinSet<anyhow::Result<Answered>>;

impl PostgresPool {
    /// Starts `replicas` pods in a namespace that begins with `prefix`.
    pub async fn start(prefix: &str, replicas: usize) -> anyhow::Result<Self> {
        let database = PostgresDatabase::create().await?;
        let installation = Installation::prepare(prefix).await?;
        installation.on_postgres(&database.url_of_pods()?, replicas, json!({}))?;
        let tenant = installation.tenant("acme").with_limits(PLENTY, PLENTY);
        installation.admit(&tenant)?;
        let pods = installation.pods("pool")?;
        ensure!(pods.len() == replicas, "{pods:?}");
        let pool = Self {
            installation,
            database,
            tenant,
            pods,
        };
        pool.greet_every_pod().await?;
        Ok(pool)
    }

    /// Chats through the Service until each pod has answered. A pod is ready a moment before the Service reaches it,
    /// and before it reaches any, it refuses connections.
    async fn greet_every_pod(&self) -> anyhow::Result<()> {
        let tenant = self.tenant.id;
        self.installation.serving(tenant, Uuid::new_v4()).await?;
        let started = Instant::now();
        while self.counts(COMPLETED).await?.contains(&0) {
            ensure!(
                started.elapsed() < REACHED_WITHIN,
                "one of {:?} is not reached",
                self.pods
            );
            let api = self.installation.api(tenant, Uuid::new_v4())?;
            let chat = api.create_chat(Some("std")).await?;
            api.say(&chat, "PING").await?.only("done")?;
        }
        Ok(())
    }

    /// Opens `count` streams through the Service and waits until all of them run. Each answer is different and is held
    /// before its end until [`Self::release`]. Returns the streams and the answers.
    pub async fn open(&self, count: usize) -> anyhow::Result<(Streams, BTreeSet<String>)> {
        let words = |number: usize| ["I am ".to_owned(), format!("number {number}")];
        let scenario = |number: usize| Scenario {
            deltas: Some(words(number).to_vec()),
            hold_before_end: true,
            ..Scenario::default()
        };
        let scenarios: Vec<Scenario> = (0..count).map(scenario).collect();
        self.control(Method::POST, "scenarios", &json!(scenarios))
            .await?;
        let mut streams = JoinSet::new();
        for _ in 0..count {
            // Each caller has its own connection, which the Service gives to any pod.
            let api = self.installation.api(self.tenant.id, Uuid::new_v4())?;
            streams.spawn(async move {
                let chat = api.create_chat(Some("std")).await?;
                let events = api.say(&chat, "Tell me your number.").await?;
                Ok(Answered { api, chat, events })
            });
        }
        let all_run = async || Ok(self.sum("mini_chat_active_streams").await? == count);
        tokio::select! {
            all_run = eventually("all streams open", all_run) => all_run?,
            // No answer may have ended, so this is the reason why not all streams will run.
            Some(ended) = streams.join_next() => {
                let Answered { chat, events, .. } = ended??;
                bail!("the answer in {chat} ended before all were open: {events:?}");
            }
        }
        Ok((streams, (0..count).map(|n| words(n).concat()).collect()))
    }

    /// Lets `streams` end and returns their results. Fails if one of them failed.
    pub async fn release(&self, mut streams: Streams) -> anyhow::Result<Vec<Answered>> {
        let call = format!("release?count={}", streams.len());
        self.control(Method::POST, &call, &Value::Null).await?;
        let mut answered = Vec::new();
        while let Some(stream) = streams.join_next().await {
            answered.push(stream??);
        }
        Ok(answered)
    }

    /// A control call of the provider.
    pub async fn control(&self, method: Method, call: &str, body: &Value) -> anyhow::Result<Value> {
        let provider = self.installation.provider()?;
        let path = format!("/_control/{call}");
        let body = Bytes::from(body.to_string());
        let response = provider.send(method, &path, &[], body).await?;
        let answer = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&answer)?)
    }

    /// The value of a family in each pod.
    pub async fn counts(&self, family: &str) -> anyhow::Result<Vec<usize>> {
        let mut counts = Vec::new();
        for pod in &self.pods {
            counts.push(pod.metrics().await?.count(family, &[])?);
        }
        Ok(counts)
    }

    /// The sum of a family over all pods.
    pub async fn sum(&self, family: &str) -> anyhow::Result<usize> {
        Ok(self.counts(family).await?.into_iter().sum())
    }

    /// Changes the daily limit of the tenant's users for standard models, in micro-credits.
    pub async fn limit(&self, daily: i64) -> anyhow::Result<()> {
        let kind = GroupVersionKind::gvk("minichat.dev", "v1alpha1", "ChatQuota");
        let quotas: Objects<DynamicObject> = Objects::namespaced_with(
            self.installation.client.clone(),
            self.installation.tenants(),
            &ApiResource::from_gvk_with_plural(&kind, "chatquotas"),
        );
        let limits = json!({"spec": {"limits": {"standard": {"daily": format!("{daily}u")}}}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(limits));
        quotas.patch("acme-default", &parameters, &patch).await?;
        Ok(())
    }

    /// Changes the tenant's key for its provider.
    pub async fn rotate(&self, key: &str) -> anyhow::Result<()> {
        let secrets: Objects<Secret> = Objects::namespaced(
            self.installation.client.clone(),
            self.installation.tenants(),
        );
        let key = json!({"stringData": {"api-key": key}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(key));
        secrets.patch("acme-provider", &parameters, &patch).await?;
        Ok(())
    }

    /// The revision of the tenant that each pod runs.
    pub async fn revisions(&self) -> anyhow::Result<Vec<String>> {
        let mut revisions = Vec::new();
        for pod in &self.pods {
            let tenants = pod.admin().get_absolute("/configz").await?.expect(200)?;
            ensure!(tenants[0]["state"] == "active", "{tenants}");
            let revision = tenants[0]["revision"].as_str();
            revisions.push(revision.context("no revision")?.to_owned());
        }
        Ok(revisions)
    }

    /// Removes everything.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.installation.remove().await?;
        self.database.remove().await
    }
}
