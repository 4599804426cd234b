//! How long what could not be deleted is left alone (CONT-168).

use std::time::Duration;

use uuid::Uuid;

/// The longest wait, without its random part.
const LONGEST: Duration = Duration::from_hours(1);

/// Four times as long as it was left alone before, at least `first` or what the
/// provider wants, at most [`LONGEST`], and up to a quarter more at random, so that
/// what failed together is not tried together.
pub(super) fn wait(first: Duration, waited: Duration, retry_after: Option<Duration>) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    spread(whole(first, waited, retry_after), random)
}

fn whole(first: Duration, waited: Duration, retry_after: Option<Duration>) -> Duration {
    let longer = (4 * waited).max(retry_after.unwrap_or_default());
    longer.min(LONGEST).max(first)
}

fn spread(whole: Duration, random: u64) -> Duration {
    let quarter = u64::try_from((whole / 4).as_micros()).unwrap_or(u64::MAX);
    whole + Duration::from_micros(random % quarter.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_mins(1);

    /// CONT-168
    #[test]
    fn waits_grow_to_an_hour() {
        let mut waits = Vec::new();
        let mut waited = Duration::ZERO;
        for _ in 0..7 {
            waited = whole(FIRST, waited, None);
            waits.push(waited.as_secs() / 60);
        }
        assert_eq!(waits, [1, 4, 16, 60, 60, 60, 60]);
        assert_eq!(spread(FIRST, 0), FIRST);
        assert!(
            (0..1_000_000)
                .step_by(999)
                .all(|it| spread(FIRST, it * 31) <= FIRST * 5 / 4)
        );
    }

    /// CONT-167
    #[test]
    fn a_provider_may_ask_for_a_longer_wait() {
        let asked = |seconds| whole(FIRST, Duration::ZERO, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(5), FIRST);
        assert_eq!(asked(600), Duration::from_mins(10));
        assert_eq!(asked(1_000_000), LONGEST);
    }
}
