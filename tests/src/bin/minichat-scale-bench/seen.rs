//! The operator's writes as a watch shows them, with their times.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, pin_mut};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Site, condition};
use serde_json::Value;
use tokio::sync::Notify;

/// Maximum duration of a watch.
const WATCHED_SECONDS: u32 = 290;

/// The writes seen so far.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Inner>);

#[derive(Default)]
struct Inner {
    objects: Mutex<Objects>,
    changed: Notify,
}

#[derive(Default)]
struct Objects {
    /// By name of the rendered Secret.
    rendered: HashMap<String, Rendered>,
    /// When each tenant was first rendered.
    first_rendered: Vec<Instant>,
    /// By name of the `ChatTenant`: the revision, and when the tenant was ready with it.
    ready: HashMap<String, (String, Instant)>,
    /// When each tenant was first ready.
    first_ready: Vec<Instant>,
}

struct Rendered {
    revision: String,
    document: String,
    at: Instant,
}

impl Seen {
    /// Starts to watch the operator's writes.
    pub(crate) async fn start(site: &Site) -> anyhow::Result<Self> {
        let seen = Self::default();
        for (kind, namespace) in [("Secret", &site.namespace), ("ChatTenant", &site.tenants)] {
            let api = site.api(kind, namespace)?;
            let list = api.list_metadata(&ListParams::default()).await?;
            let version = list.metadata.resource_version.context("no version")?;
            tokio::spawn(seen.clone().follow(api, kind, version));
        }
        Ok(seen)
    }

    async fn follow(self, api: Api<DynamicObject>, kind: &'static str, mut version: String) {
        let parameters = WatchParams::default().timeout(WATCHED_SECONDS);
        while let Ok(events) = api.watch(&parameters, &version).await {
            pin_mut!(events);
            while let Some(Ok(event)) = events.next().await {
                let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else {
                    continue;
                };
                if let Some(newest) = &object.metadata.resource_version {
                    version.clone_from(newest);
                }
                self.take(kind, &serde_json::to_value(object).unwrap_or_default());
            }
        }
    }

    fn take(&self, kind: &str, object: &Value) {
        let at = Instant::now();
        let name = text(&object["metadata"]["name"]);
        let mut objects = self.objects();
        if kind == "Secret" {
            let document = STANDARD.decode(text(&object["data"]["tenant.json"]));
            let rendered = Rendered {
                revision: text(&object["metadata"]["annotations"]["minichat.dev/revision"]),
                document: String::from_utf8(document.unwrap_or_default()).unwrap_or_default(),
                at,
            };
            if objects.rendered.insert(name, rendered).is_none() {
                objects.first_rendered.push(at);
            }
        } else if condition(object, "Ready").is_some_and(|(is, _)| is == "True/Ready") {
            let revision = text(&object["status"]["revision"]);
            let known = objects.ready.get(&name).map(|(known, _)| known.clone());
            if known.is_none() {
                objects.first_ready.push(at);
            }
            if known.as_ref() != Some(&revision) {
                objects.ready.insert(name, (revision, at));
            }
        }
        drop(objects);
        self.0.changed.notify_waiters();
    }

    /// Whether `count` tenants were ready.
    pub(crate) fn are_ready(&self, count: usize) -> bool {
        self.objects().first_ready.len() >= count
    }

    /// When `count` tenants were rendered, and when they were ready.
    pub(crate) async fn started(
        &self,
        count: usize,
        within: Duration,
    ) -> anyhow::Result<(Instant, Instant)> {
        let last = count.saturating_sub(1);
        self.until("all ready", within, |objects| {
            let ready = objects.first_ready.get(last)?;
            Some((*objects.first_rendered.get(last)?, *ready))
        })
        .await
    }

    /// When `limit`, in micro-credits, was in the Secret of `tenant`, and when the tenant was ready with it.
    pub(crate) async fn landed(
        &self,
        tenant: &Tenant,
        limit: u64,
        within: Duration,
    ) -> anyhow::Result<(Instant, Instant)> {
        let (secret, limit) = (format!("minichat-tenant-{}", tenant.id), limit.to_string());
        let (revision, rendered) = self
            .until("the edit in the Secret", within, |objects| {
                let rendered = objects.rendered.get(&secret)?;
                let holds = rendered.document.contains(&limit);
                holds.then(|| (rendered.revision.clone(), rendered.at))
            })
            .await?;
        let programmed = self
            .until("the edit acknowledged", within, |objects| {
                let (runs, at) = objects.ready.get(&tenant.name)?;
                (*runs == revision).then_some(*at)
            })
            .await?;
        Ok((rendered, programmed))
    }

    async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        find: impl Fn(&Objects) -> Option<T>,
    ) -> anyhow::Result<T> {
        let waited = async {
            loop {
                let changed = self.0.changed.notified();
                if let Some(found) = find(&self.objects()) {
                    return found;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(within, waited).await;
        found.with_context(|| format!("not seen within {within:?}: {what}"))
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        let objects = self.0.objects.lock();
        objects.unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
