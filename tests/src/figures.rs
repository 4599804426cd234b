//! What benchmarks print of what they measured.

use std::time::Duration;

/// 50, 90, 99 and 100 per cent of `times`, in milliseconds; zeros of none.
pub fn quantiles(mut times: Vec<Duration>) -> [u128; 4] {
    times.sort();
    [50, 90, 99, 100].map(|percent| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).map_or(0, Duration::as_millis)
    })
}

/// Whether a goal is reached, in a word.
pub fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}
