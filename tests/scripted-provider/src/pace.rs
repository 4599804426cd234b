//! Paced models, such as `paced-ttft50-chunks100-interval20` (milliseconds).
//! With the prefix `stamped-`, each piece is `@` and the nanoseconds of
//! `CLOCK_MONOTONIC` at which it was written. All processes of one machine read
//! this clock alike.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) is_stamped: bool,
    pub(super) first: Duration,
    pub(super) chunks: u32,
    pub(super) interval: Duration,
}

impl Pace {
    pub(super) fn from_model(model: &str) -> Option<Self> {
        let (is_stamped, name) = match model.strip_prefix("stamped-") {
            Some(name) => (true, name),
            None => (false, model),
        };
        let (mut first, mut chunks, mut interval) = (0, 1, 0);
        for part in name.strip_prefix("paced-")?.split('-') {
            let digits = part.find(|c: char| c.is_ascii_digit())?;
            let number = part[digits..].parse().ok()?;
            match &part[..digits] {
                "ttft" => first = number,
                "chunks" => chunks = number,
                "interval" => interval = number,
                _ => return None,
            }
        }
        Some(Self {
            is_stamped,
            first: Duration::from_millis(u64::from(first)),
            chunks,
            interval: Duration::from_millis(u64::from(interval)),
        })
    }

    /// When piece `index` is due, measured from the request.
    pub(super) fn due(&self, index: u32) -> Duration {
        self.first + self.interval * index
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_read_from_the_model_name() {
        let pace = Pace::from_model("stamped-paced-ttft50-chunks100-interval20").unwrap();
        assert!(pace.is_stamped);
        assert_eq!(pace.chunks, 100);
        assert_eq!(pace.due(0), Duration::from_millis(50));
        assert_eq!(pace.due(2), Duration::from_millis(90));
        assert!(!Pace::from_model("paced-chunks3").unwrap().is_stamped);
        for other in [
            "gpt-5",
            "paced-",
            "paced-ttft",
            "paced-speed9",
            "stamped-gpt",
        ] {
            assert_eq!(Pace::from_model(other), None, "{other}");
        }
    }
}
