//! The keys of issuers (PLAT-131). They are fetched once, fetched again when a
//! token names an unknown key, and kept while the issuer cannot be reached.
//! They survive every swap of tenants.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use minichat_config::Issuer;
use minichat_core::TenantId;
use minichat_identity::{Claims, KeySet, KeySetError, Rejection, Token};
use minichat_provider::{ChosenBy, FetchError, FetchLimits, ProviderClient};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

/// Maximum size of a key set or discovery document in bytes.
const MAX_BYTES: usize = 512 * 1024;
/// Maximum time for fetching both.
const FETCH: Duration = Duration::from_secs(5);
/// Minimum time between two fetches because of unknown keys (PLAT-131).
const BETWEEN_REFRESHES: Duration = Duration::from_mins(1);
/// Minimum time between two attempts while there are no keys at all.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// Age at which keys are fetched again, so that a withdrawn key stops working.
const MAX_AGE: Duration = Duration::from_mins(15);

/// When there are this many sources that no tenant uses any more, they are
/// dropped.
const MAX_OTHERS: usize = 32;

/// Why a token cannot be verified.
pub(super) enum Unproven {
    Rejected(Rejection),
    /// No key of the issuer could ever be loaded (D5).
    NoKeys,
}

/// Keys by issuer and by the address of its keys. So a tenant's own address is
/// used for this tenant only.
pub(super) struct IssuerKeys {
    client: ProviderClient,
    allow_http: bool,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_source: HashMap<Source, Arc<IssuerEntry>>,
    /// The number of sources after the last removal.
    kept: usize,
}

/// Where an issuer's keys come from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    issuer: String,
    jwks_uri: Option<String>,
    is_of_process: bool,
}

impl Source {
    pub(super) fn new(issuer: &Issuer, chosen_by: ChosenBy) -> Self {
        Self {
            issuer: issuer.issuer.clone(),
            jwks_uri: issuer.jwks_uri.clone(),
            is_of_process: chosen_by == ChosenBy::Process,
        }
    }
}

/// A request for keys, and the tenant of the token.
#[derive(Clone)]
struct Inquiry {
    source: Source,
    entry: Arc<IssuerEntry>,
    tenant: TenantId,
    chosen_by: ChosenBy,
}

#[derive(Default)]
struct IssuerEntry {
    keys: ArcSwapOption<Loaded>,
    attempts: Arc<AsyncMutex<Attempts>>,
}

struct Loaded {
    keys: KeySet,
    at: Instant,
}

/// Times of the last attempts. Locked during an attempt, so that requests share
/// one fetch.
#[derive(Default)]
struct Attempts {
    /// When the last fetch ended.
    ended: Option<Instant>,
    /// When the last fetch because of an unknown key began.
    refresh: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum FetchKeysError {
    #[error("{0}: {1}")]
    Fetch(String, FetchError),
    #[error("the answers took longer than {FETCH:?}")]
    TimedOut,
    #[error("the discovery document: {0}")]
    Discovery(#[from] serde_json::Error),
    #[error("the discovery document is that of another issuer")]
    OtherIssuer,
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// The used members of an `OpenID` Connect Discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeys {
    pub(super) fn new(client: ProviderClient, allow_http: bool) -> Self {
        Self {
            client,
            allow_http,
            entries: Mutex::default(),
        }
    }

    /// The claims of `token`, after a key of `issuer` has verified it. Keys are
    /// fetched only if there are none yet or if the token names an unknown one.
    /// `tenant` is the tenant that the token would open. The log names it if
    /// keys cannot be loaded.
    pub(super) async fn verified<'t>(
        self: &Arc<Self>,
        tenant: TenantId,
        issuer: &Issuer,
        chosen_by: ChosenBy,
        token: &'t Token<'_>,
    ) -> Result<&'t Claims, Unproven> {
        let source = Source::new(issuer, chosen_by);
        let inquiry = Inquiry {
            entry: self.entry(&source),
            source,
            tenant,
            chosen_by,
        };
        let known = inquiry.entry.keys.load_full();
        let known = match known {
            Some(known) => known,
            None => self.first(&inquiry).await.ok_or(Unproven::NoKeys)?,
        };
        self.refresh_old(&inquiry, &known);
        match token.verified(&known.keys) {
            Err(Rejection::UnknownKey) => {}
            decided => return decided.map_err(Unproven::Rejected),
        }
        let newer = self.refreshed(&inquiry, &known).await;
        token.verified(&newer.keys).map_err(Unproven::Rejected)
    }

    fn entry(&self, source: &Source) -> Arc<IssuerEntry> {
        let mut entries = self.lock();
        if let Some(entry) = entries.by_source.get(source) {
            return Arc::clone(entry);
        }
        Arc::clone(entries.by_source.entry(source.clone()).or_default())
    }

    /// Drops the keys of sources that no tenant lists, once there may be many.
    /// So a tenant that keeps changing its issuers does not use up memory.
    pub(super) fn drop_unlisted(&self, listed: impl FnOnce() -> HashSet<Source>) {
        let mut entries = self.lock();
        if entries.by_source.len() <= entries.kept + MAX_OTHERS {
            return;
        }
        let listed = listed();
        entries
            .by_source
            .retain(|source, _| listed.contains(source));
        entries.kept = entries.by_source.len();
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first keys. One request fetches them; the others wait and share the
    /// result.
    async fn first(self: &Arc<Self>, inquiry: &Inquiry) -> Option<Arc<Loaded>> {
        let requested = Instant::now();
        let entry = &inquiry.entry;
        let attempts = Arc::clone(&entry.attempts).lock_owned().await;
        if let Some(loaded) = entry.keys.load_full() {
            return Some(loaded);
        }
        let is_shared = attempts.ended.is_some_and(|ended| ended >= requested);
        if !is_shared && is_due(attempts.ended, BETWEEN_ATTEMPTS) {
            self.fetch_in_its_own_task(inquiry, attempts).await;
        }
        entry.keys.load_full()
    }

    /// Keys newer than `known`, fetched at most once a minute; otherwise
    /// `known`.
    async fn refreshed(self: &Arc<Self>, inquiry: &Inquiry, known: &Arc<Loaded>) -> Arc<Loaded> {
        let entry = &inquiry.entry;
        let mut attempts = Arc::clone(&entry.attempts).lock_owned().await;
        let is_still_newest = entry
            .keys
            .load()
            .as_ref()
            .is_some_and(|newest| Arc::ptr_eq(newest, known));
        if is_still_newest && is_due(attempts.refresh, BETWEEN_REFRESHES) {
            attempts.refresh = Some(Instant::now());
            self.fetch_in_its_own_task(inquiry, attempts).await;
        }
        entry.keys.load_full().unwrap_or_else(|| Arc::clone(known))
    }

    /// Starts to replace old keys in the background.
    fn refresh_old(self: &Arc<Self>, inquiry: &Inquiry, known: &Loaded) {
        if known.at.elapsed() < MAX_AGE {
            return;
        }
        let Ok(attempts) = Arc::clone(&inquiry.entry.attempts).try_lock_owned() else {
            return;
        };
        if is_due(attempts.ended, BETWEEN_REFRESHES) {
            let (keys, inquiry) = (Arc::clone(self), inquiry.clone());
            tokio::spawn(async move { keys.fetch_into(&inquiry, attempts).await });
        }
    }

    /// If the client of this request disconnects, the fetch must continue for
    /// the others.
    async fn fetch_in_its_own_task(
        self: &Arc<Self>,
        inquiry: &Inquiry,
        attempts: OwnedMutexGuard<Attempts>,
    ) {
        let (keys, inquiry) = (Arc::clone(self), inquiry.clone());
        let fetch = tokio::spawn(async move { keys.fetch_into(&inquiry, attempts).await });
        // The panic hook reports a panic. Without keys, the caller is refused.
        let _ = fetch.await;
    }

    async fn fetch_into(&self, inquiry: &Inquiry, mut attempts: OwnedMutexGuard<Attempts>) {
        let Inquiry {
            source,
            entry,
            tenant,
            chosen_by,
        } = inquiry;
        let fetched = timeout(FETCH, self.fetch(source, *chosen_by)).await;
        match fetched.unwrap_or(Err(FetchKeysError::TimedOut)) {
            Ok(keys) => {
                let at = Instant::now();
                entry.keys.store(Some(Arc::new(Loaded { keys, at })));
                tracing::info!(issuer = source.issuer, "the issuer's keys are loaded");
            }
            Err(error) => {
                tracing::warn!(tenant.id = %tenant, issuer = source.issuer, %error, "the issuer's keys cannot be loaded");
            }
        }
        attempts.ended = Some(Instant::now());
    }

    async fn fetch(&self, source: &Source, chosen_by: ChosenBy) -> Result<KeySet, FetchKeysError> {
        let address = match &source.jwks_uri {
            Some(address) => address.clone(),
            None => self.discover(source, chosen_by).await?,
        };
        let document = self.document(address, chosen_by).await?;
        Ok(KeySet::parse(&document)?)
    }

    async fn discover(
        &self,
        source: &Source,
        chosen_by: ChosenBy,
    ) -> Result<String, FetchKeysError> {
        let base = source.issuer.trim_end_matches('/');
        let address = format!("{base}/.well-known/openid-configuration");
        let document = self.document(address, chosen_by).await?;
        let discovery: Discovery = serde_json::from_slice(&document)?;
        if discovery.issuer == source.issuer {
            Ok(discovery.jwks_uri)
        } else {
            Err(FetchKeysError::OtherIssuer)
        }
    }

    async fn document(
        &self,
        address: String,
        chosen_by: ChosenBy,
    ) -> Result<Vec<u8>, FetchKeysError> {
        let limits = FetchLimits {
            bytes: MAX_BYTES,
            total: FETCH,
            allow_http: self.allow_http,
            chosen_by,
        };
        let document = self.client.fetch(&address, limits).await;
        document.map_err(|error| FetchKeysError::Fetch(address, error))
    }
}

fn is_due(last: Option<Instant>, pause: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= pause)
}

#[cfg(test)]
#[path = "issuer_keys_tests.rs"]
mod tests;
