//! Who lists which issuer of tokens: none opens two tenants by accident
//! (`auth.issuers`). An issuer is *shared* when every tenant that lists it names
//! a `tenantClaim`; otherwise it belongs to the tenant that was delivered with it
//! first, and before any was, to the oldest. A tenant is told by its
//! `namespace/name`: its id alone says nothing, since another may ask for the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_core::TenantId;
use minichat_crds::rendered_secret::{self, TENANT_KEY};
use minichat_crds::{ChatTenant, render};
use serde::Deserialize;
use tokio::time::Instant;

use crate::cache::full_name;
use crate::condition::{Reason, Type, find};
use crate::index::Key;
use crate::ownership::{named_for, source_of};

/// Longer than the API server takes to carry out a write and a cache to show it.
pub(crate) const LIFETIME: Duration = Duration::from_mins(2);

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    issuer: String,
    names_a_claim: bool,
}

impl Listed {
    pub(crate) fn by_tenant(tenant: &ChatTenant) -> Vec<Self> {
        let issuers = tenant.spec.auth.issuers.iter();
        let listed = issuers.map(|issuer| Self {
            issuer: issuer.issuer.clone(),
            names_a_claim: issuer.tenant_claim.is_some(),
        });
        listed.collect()
    }

    /// Finds tenants that list the same issuer.
    pub(crate) fn key(&self) -> Key {
        Key::Issuer(self.issuer.clone())
    }

    fn excludes(&self, other: &Self) -> bool {
        self.issuer == other.issuer && !(self.names_a_claim && other.names_a_claim)
    }
}

/// Whether both lists cannot be delivered.
pub(crate) fn exclude_each_other(some: &[Listed], others: &[Listed]) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| one.excludes(other)))
}

/// What the rendered Secrets of the pool list, and what those will that are being
/// written: a cache shows a write a moment later.
#[derive(Debug, Default)]
pub(crate) struct DeliveredIssuers(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    listed: HashMap<TenantId, Delivered>,
    tenants: HashMap<String, BTreeSet<TenantId>>,
    /// Writes that the cache has not shown yet, the latest last.
    claimed: HashMap<TenantId, Vec<Claimed>>,
    claims: u64,
}

/// What a rendered Secret lists, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Delivered {
    /// `namespace/name` of the tenant.
    source: Option<String>,
    listed: Vec<Listed>,
}

#[derive(Debug)]
struct Claimed {
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
    issuers: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
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

    /// `tenant` is gone, and with it what was written for it.
    pub(crate) fn forget_claims(&self, tenant: &ChatTenant) {
        let full = full_name(tenant);
        let mut held = self.held();
        held.claimed.retain(|_, claimed| {
            claimed.retain(|claimed| claimed.delivered.source.as_ref() != Some(&full));
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

    /// Claims the id of `tenant` and what it lists, before its Secret is written.
    /// `None` if the id or an issuer has become another tenant's since that was
    /// decided: of two that are decided at once only one is written. Then the
    /// Secret of the id was `seen` to be of that source.
    pub(crate) fn claim(&self, tenant: &ChatTenant, seen: Option<&str>) -> Option<Claim> {
        let id = render::tenant_id(tenant);
        let full = full_name(tenant);
        let listed = Listed::by_tenant(tenant);
        let mut held = self.held();
        let source = held
            .listed
            .get(&id)
            .and_then(|delivered| delivered.source.as_deref());
        if source != seen || held.is_claimed_by_another(id, &full) {
            return None;
        }
        let is_free = |wanted: &Listed| {
            held.own(id, &full).any(|own| own == wanted)
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
                source: Some(full),
                listed,
            },
        });
        Some(Claim { id, number })
    }

    /// Tenants that are delivered with what `listed` excludes.
    pub(crate) fn excluding(&self, listed: &Listed) -> BTreeSet<TenantId> {
        self.held().excluding(listed)
    }

    /// What `tenant` itself is delivered with, or will be.
    fn own(&self, tenant: &ChatTenant) -> Vec<Listed> {
        let (id, full) = (render::tenant_id(tenant), full_name(tenant));
        self.held().own(id, &full).cloned().collect()
    }

    /// `namespace/name` of who is delivered under `id`.
    fn source(&self, id: TenantId) -> Option<String> {
        self.held().source(id)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rendered Secret lists, and for whom.
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

    /// Whatever `id` is delivered with, or will be, for whomever.
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

    /// Who is delivered under `id`, or will be.
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

/// Why `tenant` must not be delivered: the first of its issuers that is another
/// tenant's, of `tenants`.
pub(crate) fn conflict(
    tenant: &ChatTenant,
    tenants: &[Arc<ChatTenant>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let wanted = Listed::by_tenant(tenant);
    wanted.iter().enumerate().find_map(|(position, listed)| {
        let holder = holder(tenant, listed, tenants, delivered)?;
        Some(format!(
            "spec.auth.issuers[{position}].issuer: {} is listed by {holder} too; tenants share an issuer only when \
             each of them names a tenantClaim: write one in both, or remove the issuer here",
            listed.issuer
        ))
    })
}

/// Who has the issuer instead of `tenant`.
fn holder(
    tenant: &ChatTenant,
    listed: &Listed,
    tenants: &[Arc<ChatTenant>],
    delivered: &DeliveredIssuers,
) -> Option<String> {
    let id = render::tenant_id(tenant);
    let own = delivered.own(tenant);
    let has_it = own.contains(listed);
    // Whoever begins or ends to share an issuer had it before.
    let held = own.iter().any(|entry| entry.issuer == listed.issuer);
    let holders = delivered.excluding(listed);
    let mut others = holders.iter().filter(|holder| **holder != id);
    if !has_it && let Some(first) = others.next() {
        let source = delivered.source(*first).unwrap_or_default();
        let is_there = tenants
            .iter()
            .any(|other| full_name(other.as_ref()) == source);
        let named = named_for(tenant, &source);
        return Some(if is_there {
            named
        } else {
            format!("{named}, which is being removed,")
        });
    }
    let rivals = tenants.iter().filter(|other| {
        let other_id = render::tenant_id(other);
        let is_equal = if holders.contains(&other_id) {
            has_it
        } else {
            !held
        };
        other_id != id
            && is_equal
            && age(other) < age(tenant)
            && is_asking(other)
            && Listed::by_tenant(other)
                .iter()
                .any(|entry| entry.excludes(listed))
    });
    let oldest = rivals.min_by_key(|other| age(other))?;
    let named = named_for(tenant, &full_name(oldest.as_ref()));
    Some(format!("{named}, which is older,"))
}

/// The oldest comes first; among equals the smaller name.
pub(crate) fn age(tenant: &ChatTenant) -> impl Ord + use<> {
    let created = tenant.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), full_name(tenant))
}

/// A tenant that is not valid or ends keeps nobody from anything (K8S-8).
pub(crate) fn is_asking(tenant: &ChatTenant) -> bool {
    let conditions = tenant.status.as_ref().map(|status| &status.conditions);
    let accepted = conditions.and_then(|conditions| find(conditions, Type::Accepted));
    let is_invalid = accepted.is_some_and(|accepted| {
        [Reason::Invalid, Reason::NamespaceNotAllowed]
            .iter()
            .any(|reason| reason.as_str() == accepted.reason)
            && accepted.observed_generation == tenant.metadata.generation
    });
    tenant.metadata.deletion_timestamp.is_none() && !is_invalid
}

#[cfg(test)]
mod tests {
    use minichat_crds::cases;
    use serde_json::{Value, json};

    use super::*;

    const OLD: u8 = 1;
    const NEW: u8 = 2;

    /// A tenant that was created on the day `number`, with issuers, each
    /// `<issuer>` or `<issuer> <tenant claim>`.
    fn tenant(number: u8, issuers: &[&str]) -> Arc<ChatTenant> {
        let issuers: Vec<Value> = issuers
            .iter()
            .map(|text| match text.split_once(' ') {
                Some((issuer, claim)) => {
                    json!({"issuer": issuer, "audience": "a", "tenantClaim": claim})
                }
                None => json!({"issuer": text, "audience": "a"}),
            })
            .collect();
        let mut object = cases::tenant();
        object["spec"]["tenantId"] = json!(id(number));
        object["spec"]["auth"] = json!({ "issuers": issuers });
        let mut tenant = minichat_crds::admit::chat_tenant(&object, None).unwrap();
        tenant.metadata = serde_json::from_value(json!({
            "name": format!("t{number}"), "namespace": "a", "uid": number.to_string(),
            "creationTimestamp": format!("2026-01-0{number}T00:00:00Z"), "generation": 1,
        }))
        .unwrap();
        Arc::new(tenant)
    }

    fn id(number: u8) -> String {
        format!("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a0{number}")
    }

    fn secret(number: u8, issuers: &[&str]) -> Secret {
        let issuers: Vec<Value> = issuers
            .iter()
            .map(|text| match text.split_once(' ') {
                Some((issuer, claim)) => json!({"issuer": issuer, "tenant_claim": claim}),
                None => json!({ "issuer": text }),
            })
            .collect();
        let text = json!({"schema": 1, "issuers": issuers}).to_string();
        let mut secret = Secret::default();
        secret.metadata.name = Some(rendered_secret::name(id(number).parse().unwrap()));
        secret
            .annotations_mut()
            .insert(rendered_secret::SOURCE.to_owned(), format!("a/t{number}"));
        let text = k8s_openapi::ByteString(text.into_bytes());
        secret.data = Some([(TENANT_KEY.to_owned(), text)].into());
        secret
    }

    /// Claims what `tenant` lists, as one who has seen what is delivered now.
    fn claimed(delivered: &DeliveredIssuers, tenant: &ChatTenant) -> Option<Claim> {
        let held = delivered.held();
        let shown = held.listed.get(&render::tenant_id(tenant));
        let seen = shown.and_then(|shown| shown.source.clone());
        drop(held);
        delivered.claim(tenant, seen.as_deref())
    }

    fn conflicts(
        old: &Arc<ChatTenant>,
        new: &Arc<ChatTenant>,
        delivered: &DeliveredIssuers,
    ) -> (Option<String>, Option<String>) {
        let all = [Arc::clone(new), Arc::clone(old)];
        (
            conflict(old, &all, delivered),
            conflict(new, &all, delivered),
        )
    }

    /// K8S, section 2, `auth.issuers`
    #[test]
    fn of_two_that_were_not_delivered_the_oldest_has_the_issuer() {
        let delivered = DeliveredIssuers::default();
        let (old, new) = (
            tenant(OLD, &["https://x"]),
            tenant(NEW, &["https://y", "https://x"]),
        );
        let (of_old, of_new) = conflicts(&old, &new, &delivered);
        assert_eq!(of_old, None);
        let message = of_new.unwrap();
        assert!(
            message.starts_with(
                "spec.auth.issuers[1].issuer: https://x is listed by the ChatTenant a/t1, which is older, too"
            ),
            "{message}"
        );
        for (old, new, fits) in [
            ("https://x org", "https://x org", true),
            ("https://x org", "https://x", false),
            ("https://x", "https://x org", false),
            ("https://x", "https://x/", true),
        ] {
            let found = conflicts(&tenant(OLD, &[old]), &tenant(NEW, &[new]), &delivered);
            assert_eq!((found.0, found.1.is_none()), (None, fits), "{old}, {new}");
        }
    }

    /// K8S-8: an edit of an older tenant takes nothing away from a newer one.
    #[test]
    fn what_is_delivered_comes_before_what_is_older() {
        let delivered = DeliveredIssuers::default();
        delivered.set(&secret(NEW, &["https://x"]));
        let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
        let (of_old, of_new) = conflicts(&old, &new, &delivered);
        assert!(of_old.unwrap().contains("the ChatTenant a/t2"));
        assert_eq!(of_new, None);
        // Until the newer one has given it up, and that is delivered.
        let new = tenant(NEW, &[]);
        assert!(conflicts(&old, &new, &delivered).0.is_some());
        assert_eq!(delivered.set(&secret(NEW, &[])), Listed::by_tenant(&old));
        assert_eq!(conflicts(&old, &new, &delivered).0, None);
        assert_eq!(delivered.set(&secret(NEW, &["https://x"])), []);
        let sharing = tenant(NEW, &["https://x org"]);
        assert_eq!(conflicts(&old, &sharing, &delivered).1, None);
        delivered.set(&secret(NEW, &[]));
        // A Secret whose tenant is gone still delivers.
        delivered.set(&secret(3, &["https://x"]));
        assert!(
            conflicts(&old, &new, &delivered)
                .0
                .unwrap()
                .contains("a/t3, which is being removed,")
        );
        delivered.remove(&secret(3, &[]));
        assert_eq!(conflicts(&old, &new, &delivered).0, None);
    }

    /// K8S, section 2, `auth.issuers`: two that are decided at once, and a write that
    /// no cache shows yet.
    #[test]
    fn an_issuer_is_taken_from_the_moment_before_its_secret_is_written() {
        let delivered = DeliveredIssuers::default();
        let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
        let claim = claimed(&delivered, &new).unwrap();
        assert!(claimed(&delivered, &old).is_none());
        assert!(conflicts(&old, &new, &delivered).0.is_some());
        delivered.release(&claim);
        assert_eq!(conflicts(&old, &new, &delivered).0, None, "not written");

        let _ = claimed(&delivered, &new).unwrap();
        assert!(claimed(&delivered, &old).is_none());
        assert_eq!(conflicts(&old, &new, &delivered).1, None);
        // An earlier write returns first, and takes nothing away.
        delivered.set(&secret(NEW, &[]));
        assert!(claimed(&delivered, &old).is_none());
        delivered.set(&secret(NEW, &["https://x"]));
        assert!(claimed(&delivered, &old).is_none());
        // Given up, and that is not shown yet.
        let _ = claimed(&delivered, &tenant(NEW, &[])).unwrap();
        assert!(claimed(&delivered, &old).is_none());
        delivered.set(&secret(NEW, &[]));
        let _ = claimed(&delivered, &old).unwrap();
        assert!(claimed(&delivered, &new).is_none());
        // Shared ones exclude nobody.
        let shared = ["https://y org"];
        for number in [OLD, NEW] {
            let _ = claimed(&delivered, &tenant(number, &shared)).unwrap();
        }
        delivered.set(&secret(OLD, &shared));
        delivered.set(&secret(NEW, &shared));
        assert!(delivered.held().claimed.is_empty(), "nothing is kept");
        let (old, new) = (tenant(OLD, &["https://z"]), tenant(NEW, &["https://z"]));
        let _ = claimed(&delivered, &old).unwrap();
        delivered.forget_claims(&old);
        assert!(claimed(&delivered, &new).is_some());
    }

    /// K8S, section 2, `auth.issuers`: a refused write ends its own claim alone.
    #[tokio::test(start_paused = true)]
    async fn an_issuer_of_a_write_that_no_cache_shows_yet_outlives_a_later_refusal() {
        let delivered = DeliveredIssuers::default();
        let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
        let _ = claimed(&delivered, &new).unwrap();
        let refused = claimed(&delivered, &tenant(NEW, &["https://y"])).unwrap();
        delivered.release(&refused);
        assert!(claimed(&delivered, &old).is_none());
        assert!(claimed(&delivered, &tenant(OLD, &["https://y"])).is_some());
        delivered.forget_claims(&old);

        // Nobody knows whether the write took place, until it cannot any more.
        tokio::time::advance(LIFETIME).await;
        let _ = claimed(&delivered, &old).unwrap();
        delivered.forget_claims(&old);
        let _ = claimed(&delivered, &new).unwrap();

        // The earlier write is shown before the later one is refused.
        let refused = claimed(&delivered, &tenant(NEW, &["https://y"])).unwrap();
        delivered.set(&secret(NEW, &["https://x"]));
        delivered.release(&refused);
        assert!(delivered.held().claimed.is_empty(), "nothing is kept");
        assert!(claimed(&delivered, &old).is_none());
    }

    /// K8S-8
    #[test]
    fn an_invalid_or_ending_tenant_keeps_nobody_from_an_issuer() {
        let delivered = DeliveredIssuers::default();
        let new = tenant(NEW, &["https://x"]);
        let mut refused = tenant(OLD, &["https://x"]);
        let verdict = crate::condition::Verdict::no(Type::Accepted, Reason::Invalid, "");
        let now = minichat_core::Timestamp::from_micros(0);
        let conditions = crate::condition::conditions(&[verdict], &[], Some(1), now);
        Arc::make_mut(&mut refused).status = Some(minichat_crds::chat_tenant::ChatTenantStatus {
            conditions,
            ..Default::default()
        });
        assert_eq!(conflicts(&refused, &new, &delivered).1, None);
        let mut ending = tenant(OLD, &["https://x"]);
        let object = Arc::make_mut(&mut ending);
        object.metadata.deletion_timestamp = object.metadata.creation_timestamp.clone();
        assert_eq!(conflicts(&ending, &new, &delivered).1, None);
    }

    /// D36: an id alone says nothing of who lists what.
    #[test]
    fn what_is_delivered_under_an_id_is_of_its_source_alone() {
        let delivered = DeliveredIssuers::default();
        delivered.set(&secret(OLD, &["https://x"]));
        let mut other = tenant(OLD, &["https://x"]);
        let metadata = &mut Arc::make_mut(&mut other).metadata;
        metadata.namespace = Some("b".to_owned());
        assert_eq!(delivered.own(&other), []);
        assert_eq!(delivered.own(&tenant(OLD, &[])).len(), 1);
        assert!(
            delivered.claim(&other, None).is_none(),
            "it has not seen who has the id"
        );
        let _ = delivered.claim(&other, Some("a/t1")).unwrap();
        assert!(
            claimed(&delivered, &tenant(OLD, &["https://x"])).is_none(),
            "it is being written"
        );

        let new = tenant(NEW, &["https://x"]);
        let message = conflict(&new, &[Arc::clone(&other)], &delivered).unwrap();
        assert!(
            !message.contains("b/t1"),
            "the name of the holder: {message}"
        );
        Arc::make_mut(&mut other).metadata.namespace = Some("c".to_owned());
        delivered.forget_claims(&other);
        assert!(!delivered.held().claimed[&render::tenant_id(&other)].is_empty());
    }
}
