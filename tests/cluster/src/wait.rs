//! Waiting with a time limit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

const POLL: Duration = Duration::from_millis(25);

/// Calls `is_so` until it returns true. Fails if it fails, or after `within`.
pub(crate) fn until(
    what: &str,
    within: Duration,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > within {
            bail!("{what}: not within {} s", within.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}
