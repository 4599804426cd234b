//! The source `kubernetes` (K8S-21): the rendered Secrets of a pool, watched in
//! one namespace.

mod pool_secrets;
mod watch;

#[cfg(test)]
mod taking_tests;
#[cfg(test)]
mod watch_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use minichat_core::TenantId;
use minichat_crds::{RenderSettings, RenderedTenant, rendered_secret};
use minichat_telemetry::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::rendered::{Delivery, Intake};

pub(super) use pool_secrets::PoolSecrets;
use watch::{SecretChange, Watch};

/// How often a configuration that the database did not accept is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Capacity of the channel for changes. If it is full, the watch waits.
const CHANGES: usize = 64;

/// Follows a pool until dropped.
pub(super) struct Watching {
    tasks: [JoinHandle<()>; 2],
}

impl Watching {
    /// Starts to follow the pool. Fires `loaded` after the whole pool was read
    /// once.
    pub(super) fn start(
        pool: PoolSecrets,
        settings: RenderSettings,
        intake: Intake,
        loaded: Signal,
    ) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        let taking = Taking {
            settings,
            intake,
            loaded,
            uids: BTreeMap::new(),
        };
        Self {
            tasks: [
                tokio::spawn(Watch::new(pool, sender).follow()),
                tokio::spawn(taking.follow(changes)),
            ],
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Applies changes.
struct Taking {
    settings: RenderSettings,
    intake: Intake,
    loaded: Signal,
    /// The uid of each tenant's Secret when it was last seen.
    uids: BTreeMap<TenantId, String>,
}

impl Taking {
    async fn follow(mut self, mut changes: mpsc::Receiver<SecretChange>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                received = changes.recv_many(&mut batch, CHANGES) => {
                    if received == 0 {
                        return;
                    }
                    self.take(std::mem::take(&mut batch)).await;
                }
                () = tokio::time::sleep(RETRY), if self.intake.is_incomplete() => {
                    self.intake.retry().await;
                }
            }
        }
    }

    /// Applies the newest state of each tenant in `batch`. States in between
    /// are skipped.
    async fn take(&mut self, batch: Vec<SecretChange>) {
        let mut newest = BTreeMap::new();
        let mut is_whole = false;
        for change in batch {
            match change {
                SecretChange::Whole(secrets) => {
                    is_whole = true;
                    let known: BTreeSet<_> = self.intake.states.known().collect();
                    newest = known.into_iter().map(|id| (id, None)).collect();
                    newest.extend(secrets.into_iter().filter_map(named));
                }
                SecretChange::Set(secret) => newest.extend(named(*secret)),
                SecretChange::Gone(secret) => {
                    newest.extend(named(*secret).map(|(id, _)| (id, None)));
                }
            }
        }
        for (id, secret) in &newest {
            self.notice_replaced(*id, secret.as_ref());
        }
        let deliveries = newest
            .into_iter()
            .map(|(id, secret)| (id, delivery(secret, &self.settings)));
        self.intake.take(deliveries.collect()).await;
        if is_whole {
            self.loaded.fire();
        }
    }
}

impl Taking {
    /// Ends a tenant whose Secret was deleted, even if the next event for this
    /// id shows another tenant's Secret (D36).
    fn notice_replaced(&mut self, id: TenantId, secret: Option<&Secret>) {
        let uid = secret.and_then(|secret| secret.metadata.uid.clone());
        let before = match uid.clone() {
            Some(uid) => self.uids.insert(id, uid),
            None => self.uids.remove(&id),
        };
        let (Some(secret), Some(running)) = (secret, self.intake.states.running(id)) else {
            return;
        };
        let is_anothers =
            rendered_secret::source_of(secret).is_some_and(|name| name != running.source.as_str());
        if before.is_some() && before != uid && is_anothers {
            self.intake.states.remove(id);
        }
    }
}

/// The tenant id in the name of a Secret, and the Secret.
fn named(secret: Secret) -> Option<(TenantId, Option<Secret>)> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let id = rendered_secret::tenant_of(name);
    if id.is_none() {
        tracing::warn!(
            secret = name,
            "the Secret has the pool's label, but not the name of a rendered tenant; it is ignored"
        );
    }
    Some((id?, Some(secret)))
}

fn delivery(secret: Option<Secret>, settings: &RenderSettings) -> Delivery {
    let Some(secret) = secret else {
        return Delivery::Gone;
    };
    match RenderedTenant::from_secret(&secret, settings) {
        Ok(tenant) => Delivery::Rendered(Box::new(tenant)),
        Err(faults) => Delivery::Refused {
            revision: rendered_secret::revision_of(&secret)
                .unwrap_or("unknown")
                .to_owned(),
            error: faults.to_string(),
        },
    }
}
