//! The issuers in the rendered Secrets, those that are being written included.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, TENANT_KEY};
use serde::Deserialize;
use tokio::time::Instant;

use crate::tenant::{Listed, Subject, source_of};

/// Longer than the API server takes to carry out a write and a cache to show it.
pub(crate) const LIFETIME: Duration = Duration::from_mins(2);

/// What the rendered Secrets of the pool list, and what those will that are being
/// written: a cache shows a write a moment later.
#[derive(Debug, Default)]
pub(crate) struct DeliveredIssuers(Mutex<Held>);

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) listed: HashMap<TenantId, Delivered>,
    tenants: HashMap<String, BTreeSet<TenantId>>,
    /// Writes that the cache has not shown yet, the latest last.
    pub(super) claimed: HashMap<TenantId, Vec<Claimed>>,
    claims: u64,
}

/// The issuers in a rendered Secret, and its tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// `namespace/name` of the tenant.
    pub(super) source: Option<String>,
    listed: Vec<Listed>,
}

#[derive(Debug)]
pub(super) struct Claimed {
    number: u64,
    since: Instant,
    delivered: Delivered,
}

/// The id and the issuers of a Secret that is about to be written. They are the tenant's until
/// a cache shows this write or a later one, or until [`LIFETIME`] is over: whether one
/// that failed or was given up took place is not known.
#[must_use]
pub(crate) struct Claim {
    id: TenantId,
    number: u64,
}

/// The part of the document that counts here.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    issuers: Vec<IssuerEntry>,
}

#[derive(Deserialize)]
struct IssuerEntry {
    issuer: String,
    tenant_claim: Option<String>,
}

impl DeliveredIssuers {
    /// Takes note of `secret`; what its tenant had before it.
    pub(crate) fn set(&self, secret: &Secret) -> Vec<Listed> {
        let delivered = delivered_by(secret);
        delivered.map_or_else(Vec::new, |(id, delivered)| self.held().set(id, delivered))
    }

    /// Forgets `secret`; what its tenant had with it.
    pub(crate) fn remove(&self, secret: &Secret) -> Vec<Listed> {
        let id = rendered_secret::tenant_of(&secret.name_any());
        id.map(|id| self.held().set(id, Delivered::default()))
            .unwrap_or_default()
    }

    /// The tenant is gone, and with it what was written for it.
    pub(crate) fn forget_claims(&self, subject: &Subject<'_>) {
        let full = &subject.full_name;
        let mut held = self.held();
        held.claimed.retain(|_, claimed| {
            claimed.retain(|claimed| claimed.delivered.source.as_ref() != Some(full));
            !claimed.is_empty()
        });
    }

    /// The API server has refused the write.
    pub(crate) fn release(&self, claim: &Claim) {
        self.held().release(claim);
    }

    /// Takes note of all Secrets there are. Writes that a list does not show may be
    /// younger than the list.
    pub(crate) fn replace<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        let delivered: Vec<_> = secrets.into_iter().filter_map(delivered_by).collect();
        let mut held = self.held();
        held.listed.clear();
        held.tenants.clear();
        for (id, delivered) in delivered {
            held.set(id, delivered);
        }
    }

    pub(crate) fn of(&self, id: TenantId) -> Vec<Listed> {
        self.held().of(id).cloned().collect()
    }

    /// Claims the id of `subject` and what it lists, before its Secret is written.
    /// `None` if the id or an issuer has become another tenant's since that was
    /// decided: of two that are decided at once only one is written. Then the
    /// Secret of the id was `seen` to be of that source.
    pub(crate) fn claim(&self, subject: &Subject<'_>, seen: Option<&str>) -> Option<Claim> {
        let Subject {
            id,
            full_name: full,
            issuers: listed,
            ..
        } = subject;
        let id = *id;
        let mut held = self.held();
        let source = held
            .listed
            .get(&id)
            .and_then(|delivered| delivered.source.as_deref());
        if source != seen || held.is_claimed_by_another(id, full) {
            return None;
        }
        let is_free = |wanted: &Listed| {
            held.own(id, full).any(|own| own == wanted)
                || held.excluding(wanted).iter().all(|holder| *holder == id)
        };
        if !listed.iter().all(is_free) {
            return None;
        }
        held.claims += 1;
        let number = held.claims;
        let since = Instant::now();
        held.claimed.retain(|_, claimed| {
            claimed.retain(|claimed| claimed.since.elapsed() < LIFETIME);
            !claimed.is_empty()
        });
        let claimed = held.claimed.entry(id).or_default();
        claimed.push(Claimed {
            number,
            since,
            delivered: Delivered {
                source: Some(full.clone()),
                listed: listed.clone(),
            },
        });
        Some(Claim { id, number })
    }

    /// Tenants that are delivered with what `listed` excludes.
    pub(crate) fn excluding(&self, listed: &Listed) -> BTreeSet<TenantId> {
        self.held().excluding(listed)
    }

    /// What `subject` itself is delivered with, or will be.
    pub(super) fn own(&self, subject: &Subject<'_>) -> Vec<Listed> {
        let held = self.held();
        held.own(subject.id, &subject.full_name).cloned().collect()
    }

    /// `namespace/name` of the tenant that is delivered under `id`.
    pub(super) fn source(&self, id: TenantId) -> Option<String> {
        self.held().source(id)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The issuers in a rendered Secret, and its tenant.
fn delivered_by(secret: &Secret) -> Option<(TenantId, Delivered)> {
    let id = rendered_secret::tenant_of(&secret.name_any())?;
    let document = secret.data.as_ref().and_then(|data| data.get(TENANT_KEY));
    let document = document.and_then(|bytes| serde_json::from_slice::<Document>(&bytes.0).ok());
    let entries = document.map(|document| document.issuers);
    let listed = entries.into_iter().flatten().map(|entry| Listed {
        issuer: entry.issuer,
        names_a_claim: entry.tenant_claim.is_some(),
    });
    let delivered = Delivered {
        source: source_of(secret).map(str::to_owned),
        listed: listed.collect(),
    };
    Some((id, delivered))
}

impl Held {
    /// What is delivered under `id`, or will be.
    fn delivered(&self, id: TenantId) -> impl Iterator<Item = &Delivered> {
        let claimed = self.claimed.get(&id).into_iter().flatten();
        let claimed = claimed.filter(|claimed| claimed.since.elapsed() < LIFETIME);
        let listed = self.listed.get(&id).into_iter();
        listed.chain(claimed.map(|claimed| &claimed.delivered))
    }

    /// What `id` is delivered with, or will be, for any tenant.
    fn of(&self, id: TenantId) -> impl Iterator<Item = &Listed> {
        self.delivered(id).flat_map(|delivered| &delivered.listed)
    }

    /// The same for the tenant `full` alone.
    fn own(&self, id: TenantId, full: &str) -> impl Iterator<Item = &Listed> {
        let own = self
            .delivered(id)
            .filter(move |delivered| delivered.source.as_deref() == Some(full));
        own.flat_map(|delivered| &delivered.listed)
    }

    /// The tenant that is delivered under `id`, or will be.
    fn source(&self, id: TenantId) -> Option<String> {
        self.delivered(id)
            .find_map(|delivered| delivered.source.clone())
    }

    /// Whether a Secret of `id` is being written for another tenant than `full`.
    fn is_claimed_by_another(&self, id: TenantId, full: &str) -> bool {
        let claimed = self.claimed.get(&id).into_iter().flatten();
        claimed
            .filter(|claimed| claimed.since.elapsed() < LIFETIME)
            .any(|claimed| claimed.delivered.source.as_deref() != Some(full))
    }

    fn excluding(&self, listed: &Listed) -> BTreeSet<TenantId> {
        let tenants = self.tenants.get(&listed.issuer).into_iter().flatten();
        let excluding = tenants
            .chain(self.claimed.keys())
            .filter(|id| self.of(**id).any(|entry| entry.excludes(listed)));
        excluding.copied().collect()
    }

    fn release(&mut self, claim: &Claim) {
        if let Some(claimed) = self.claimed.get_mut(&claim.id) {
            claimed.retain(|claimed| claimed.number != claim.number);
        }
        // What was written before may have been shown in the meantime.
        let delivered = self.listed.get(&claim.id).cloned().unwrap_or_default();
        self.shows(claim.id, &delivered);
    }

    /// The cache shows `delivered`; if that is the latest write, all before it are past.
    fn shows(&mut self, id: TenantId, delivered: &Delivered) {
        let claimed = self.claimed.get(&id);
        let is_latest = |latest: &Claimed| latest.delivered == *delivered;
        if claimed.is_some_and(|claimed| claimed.last().is_none_or(is_latest)) {
            self.claimed.remove(&id);
        }
    }

    fn set(&mut self, id: TenantId, delivered: Delivered) -> Vec<Listed> {
        let before = self.of(id).cloned().collect();
        self.shows(id, &delivered);
        let replaced = self.listed.remove(&id).unwrap_or_default();
        for entry in &replaced.listed {
            if let Some(tenants) = self.tenants.get_mut(&entry.issuer) {
                tenants.remove(&id);
                if tenants.is_empty() {
                    self.tenants.remove(&entry.issuer);
                }
            }
        }
        for entry in &delivered.listed {
            let tenants = self.tenants.entry(entry.issuer.clone()).or_default();
            tenants.insert(id);
        }
        if delivered != Delivered::default() {
            self.listed.insert(id, delivered);
        }
        before
    }
}
