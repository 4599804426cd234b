//! How long a tenant waits after a failed delivery (PLAT-34), and the jitter of waits.

use std::time::Duration;

use uuid::Uuid;

/// `min(base * 2^(attempts - 1), max)`, of which a random part of up to a half is
/// left out, so that tenants of one broken receiver do not come back together.
pub(super) fn wait(base: Duration, max: Duration, attempts: u32) -> Duration {
    jittered(whole(base, max, attempts))
}

/// `whole` without a random part of up to a half.
pub(super) fn jittered(whole: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    without_a_part(whole, random)
}

fn whole(base: Duration, max: Duration, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(20);
    base.saturating_mul(1 << doublings).min(max)
}

fn without_a_part(whole: Duration, random: u64) -> Duration {
    let half = whole / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    whole.saturating_sub(Duration::from_micros(random % micros.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_mins(1);

    /// PLAT-34
    #[test]
    fn waits_double_up_to_the_longest() {
        let seconds = |attempts| whole(BASE, MAX, attempts).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 1000].map(seconds), [1, 2, 4, 32, 60, 60]);
    }

    /// PLAT-34
    #[test]
    fn at_least_half_of_a_wait_is_left() {
        for random in [0, 1, 500_000, 500_001, u64::MAX] {
            let wait = without_a_part(BASE, random);
            assert!(wait >= BASE / 2 && wait <= BASE, "{wait:?}");
        }
        assert_eq!(without_a_part(Duration::ZERO, 7), Duration::ZERO);
    }
}
