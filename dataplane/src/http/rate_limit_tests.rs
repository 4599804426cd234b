use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(user: u128, route: u16) -> BucketKey {
    BucketKey {
        tenant_id: TenantId(uuid::Uuid::from_u128(1)),
        user_id: UserId(uuid::Uuid::from_u128(user)),
        route,
    }
}

fn granted(limiter: &RateLimiter, key: BucketKey) -> bool {
    limiter.take(key).unwrap().check().is_ok()
}

/// API-25
#[tokio::test(start_paused = true)]
async fn a_burst_is_granted_then_refused_then_refilled() {
    let limiter = RateLimiter::new(50, 100);
    let grants = (0..200).filter(|_| granted(&limiter, key(1, 0))).count();
    assert_eq!(grants, 100);

    let verdict = limiter.take(key(1, 0)).unwrap();
    let problem = verdict.check().unwrap_err();
    assert_eq!(problem.code, ErrorCode::TooManyRequests);
    assert_eq!(
        problem.headers[0],
        (RETRY_AFTER, HeaderValue::from_static("1"))
    );

    tokio::time::advance(Duration::from_millis(20)).await;
    assert!(granted(&limiter, key(1, 0)));
    assert!(!granted(&limiter, key(1, 0)));
}

/// D20
#[tokio::test(start_paused = true)]
async fn an_empty_bucket_is_nobody_elses() {
    let limiter = RateLimiter::new(1, 1);
    assert!(granted(&limiter, key(1, 0)));
    assert!(!granted(&limiter, key(1, 0)));
    assert!(granted(&limiter, key(1, 1)));
    assert!(granted(&limiter, key(2, 0)));
}

/// API-25
#[tokio::test(start_paused = true)]
async fn headers_tell_the_policy_and_what_remains() {
    let limiter = RateLimiter::new(50, 100);
    let mut headers = HeaderMap::new();
    limiter.take(key(1, 0)).unwrap().write_headers(&mut headers);
    assert_eq!(headers["ratelimit-policy"], "\"burst\";q=100;w=50");
    assert_eq!(headers["x-ratelimit-limit"], "100");
    assert_eq!(headers["x-ratelimit-remaining"], "99");
}

/// API-25: whole seconds, rounded up.
#[tokio::test(start_paused = true)]
async fn retry_after_is_the_whole_wait() {
    let limit = Limit::new(1, 1).unwrap();
    for (nanos, seconds) in [
        (1, "1"),
        (NANOS_PER_SECOND, "1"),
        (NANOS_PER_SECOND + 1, "2"),
    ] {
        let verdict = RateLimitDecision {
            limit: &limit,
            taken: Err(Wait { nanos }),
        };
        assert_eq!(verdict.check().unwrap_err().headers[0].1, seconds);
    }
}

/// D20
#[tokio::test(start_paused = true)]
async fn zero_switches_each_limit_off() {
    assert!(RateLimiter::new(0, 100).take(key(1, 0)).is_none());
    assert!(RateLimiter::new(50, 0).take(key(1, 0)).is_none());
    let unlimited = InFlight::new(0);
    let guards: Vec<_> = (0..5_000).map(|_| unlimited.enter()).collect();
    assert!(guards.iter().all(Result::is_ok));
}

/// API-25
#[test]
fn in_flight_requests_are_counted_until_they_leave() {
    let in_flight = InFlight::new(2);
    let first = in_flight.enter().unwrap();
    let _second = in_flight.enter().unwrap();
    let problem = in_flight.enter().err().unwrap();
    assert_eq!(problem.code, ErrorCode::InFlightLimit);
    assert_eq!(
        problem.headers[0],
        (RETRY_AFTER, HeaderValue::from_static("1"))
    );
    drop(first);
    assert!(in_flight.enter().is_ok());
}

#[tokio::test(start_paused = true)]
async fn idle_buckets_are_forgotten() {
    let limiter = RateLimiter::new(50, 100);
    for user in 0..1_000 {
        granted(&limiter, key(user, 0));
    }
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(2)).await;
        granted(&limiter, key(0, 0));
    }
    let buckets = limiter.buckets.lock().unwrap();
    assert_eq!(buckets.current.len() + buckets.previous.len(), 2);
}

proptest! {
    /// API-25: at most the burst plus the refilled tokens are granted, and
    /// dropping idle buckets changes no decision.
    #[test]
    fn grants_follow_the_rate_whatever_the_arrivals(
        per_second in 1_u32..1_000,
        burst in 1_u32..200,
        gaps in prop::collection::vec((0_u64..3_000_000_000, 0_u128..3), 1..300),
    ) {
        let limit = Limit::new(per_second, burst).unwrap();
        let mut buckets = Buckets::default();
        let mut lasting = HashMap::new();
        let (mut now, mut granted) = (0, 0_u64);
        for (gap, user) in gaps {
            now += gap / if user == 0 { 1 } else { 1_000 };
            let (taken, _) = buckets.take(key(user, 0), now, &limit);
            let kept = limit.take(lasting.entry(user).or_default(), now);
            prop_assert_eq!(taken, kept);
            granted += u64::from(user == 0 && taken.is_ok());
            prop_assert!(granted <= u64::from(burst) + now / limit.interval);
        }
    }
}
