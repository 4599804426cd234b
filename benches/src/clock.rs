//! The clock that the load generator shares with the scripted provider.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of one machine read alike; this is what makes the
/// one-way latency of a stamped chunk measurable.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let readings: Vec<u64> = (0..1_000).map(|_| monotonic_nanos()).collect();
        assert!(readings[0] > 0);
        assert!(readings.is_sorted());
    }
}
