//! Admission limits (API-25, D20): how fast one caller may use one route, and
//! how many requests the process handles at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use minichat_core::{ErrorCode, TenantId, UserId};
use tokio::time::Instant;

use crate::problem::Problem;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Identifies one bucket. `route` is the number of a pair of method and route
/// template, so that no request text is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct BucketKey {
    pub(super) tenant_id: TenantId,
    pub(super) user_id: UserId,
    pub(super) route: u16,
}

/// The token buckets of all callers.
pub(super) struct RateLimiter {
    limit: Option<Limit>,
    started: Instant,
    buckets: Mutex<Buckets>,
}

impl RateLimiter {
    /// `per_second` tokens come back each second, up to `burst`. If either is
    /// 0, the limiter is off.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            limit: Limit::new(per_second, burst),
            started: Instant::now(),
            buckets: Mutex::default(),
        }
    }

    /// Takes one token. `None` if the limiter is off.
    pub(super) fn take(&self, key: BucketKey) -> Option<RateLimitDecision<'_>> {
        let limit = self.limit.as_ref()?;
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (taken, _dropped_without_the_lock) = self
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(key, now, limit);
        Some(RateLimitDecision { limit, taken })
    }
}

/// Whether a request may pass.
pub(super) struct RateLimitDecision<'a> {
    limit: &'a Limit,
    taken: Result<u64, Wait>,
}

impl RateLimitDecision<'_> {
    /// 429 if there was no token.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let Err(Wait { nanos }) = self.taken else {
            return Ok(());
        };
        let seconds = nanos.div_ceil(NANOS_PER_SECOND).max(1);
        let problem = Problem::new(
            ErrorCode::TooManyRequests,
            "Too many requests to this route. Wait as long as Retry-After says.",
        );
        Err(problem.with_header(RETRY_AFTER, HeaderValue::from(seconds)))
    }

    /// The headers on every answer of a limited route.
    pub(super) fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.limit.policy_header.clone());
        headers.insert(X_RATE_LIMIT_LIMIT, self.limit.burst_header.clone());
        let remaining = self.taken.as_ref().map_or(0, |remaining| *remaining);
        headers.insert(X_RATE_LIMIT_REMAINING, HeaderValue::from(remaining));
    }
}

/// Nanoseconds until the next token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wait {
    nanos: u64,
}

/// The limit in nanoseconds.
struct Limit {
    /// Nanoseconds until one token comes back.
    interval: u64,
    /// Nanoseconds until an empty bucket is full.
    capacity: u64,
    policy_header: HeaderValue,
    burst_header: HeaderValue,
}

impl Limit {
    fn new(per_second: u32, burst: u32) -> Option<Self> {
        if per_second == 0 || burst == 0 {
            return None;
        }
        let interval = (NANOS_PER_SECOND / u64::from(per_second)).max(1);
        let policy = format!("\"burst\";q={burst};w={per_second}");
        Some(Self {
            interval,
            capacity: interval * u64::from(burst),
            policy_header: HeaderValue::from_str(&policy).ok()?,
            burst_header: HeaderValue::from(burst),
        })
    }

    /// Takes one token from a bucket that will be full at `full_at` (generic
    /// cell rate algorithm: this one number encodes the missing tokens).
    /// Returns the number of tokens left.
    fn take(&self, full_at: &mut u64, now: u64) -> Result<u64, Wait> {
        let missing = full_at.saturating_sub(now) + self.interval;
        if missing > self.capacity {
            return Err(Wait {
                nanos: missing - self.capacity,
            });
        }
        *full_at = now.saturating_add(missing);
        Ok((self.capacity - missing) / self.interval)
    }
}

/// Recently used buckets. A bucket that was not used for as long as it takes to
/// fill is full, just like a missing bucket. So there are two generations, each
/// one such period long, and an older bucket can be dropped without loss.
#[derive(Default)]
struct Buckets {
    current: HashMap<BucketKey, u64>,
    previous: HashMap<BucketKey, u64>,
    turns_over_at: u64,
}

impl Buckets {
    /// The second part is a generation to free. This can take long, so the
    /// caller frees it without the lock.
    fn take(
        &mut self,
        key: BucketKey,
        now: u64,
        limit: &Limit,
    ) -> (Result<u64, Wait>, HashMap<BucketKey, u64>) {
        let mut retired = HashMap::new();
        if now >= self.turns_over_at {
            retired = std::mem::replace(&mut self.previous, std::mem::take(&mut self.current));
            self.turns_over_at = now.saturating_add(limit.capacity);
        }
        let full_at = self
            .current
            .entry(key)
            .or_insert_with(|| self.previous.get(&key).copied().unwrap_or(0));
        (limit.take(full_at, now), retired)
    }
}

/// The number of requests that wait for their response head. It limits memory,
/// so there is one number for the process.
pub(super) struct InFlight {
    limit: usize,
    now: AtomicUsize,
}

impl InFlight {
    /// At most `limit` requests at once; 0 switches the limit off.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: match limit {
                0 => usize::MAX,
                limit => usize::try_from(limit).unwrap_or(usize::MAX),
            },
            now: AtomicUsize::new(0),
        }
    }

    /// Counts one request until the guard is dropped, or refuses with 503
    /// `in_flight_limit`.
    pub(super) fn enter(&self) -> Result<InFlightGuard<'_>, Problem> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let guard = InFlightGuard(&self.now);
        if before < self.limit {
            return Ok(guard);
        }
        drop(guard);
        let problem = Problem::new(
            ErrorCode::InFlightLimit,
            "Too many requests are being worked on. Try again in a moment.",
        );
        Err(problem.with_header(RETRY_AFTER, HeaderValue::from_static("1")))
    }
}

/// One counted request.
pub(super) struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
