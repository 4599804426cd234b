//! The processes of a run: none may survive it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

/// How long processes that were told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes whatever outlives its own parent a child of this process, as servers
/// do that go into the background.
pub(crate) fn adopt_orphans() -> anyhow::Result<()> {
    set_child_subreaper(Some(getpid())).context("orphaned processes cannot be adopted")
}

/// Waits until no process of the run is left. Those that do not end are killed,
/// and an error.
pub(crate) async fn all_ended() -> anyhow::Result<()> {
    let began = Instant::now();
    let mut left = children_of(getpid())?;
    while !left.is_empty() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
        left = children_of(getpid())?;
    }
    for &(process, _) in &left {
        // It may end by itself at this moment.
        let _ = kill_process(process, Signal::KILL);
    }
    ensure!(left.is_empty(), "processes outlived the run: {left:?}");
    Ok(())
}

/// The children of `parent` that have not ended, with their names.
pub(crate) fn children_of(parent: Pid) -> anyhow::Result<Vec<(Pid, String)>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        children.extend(child_of(parent, &stat));
    }
    Ok(children)
}

/// Id and name of the process whose `/proc/PID/stat` this is, if it is a child
/// of `parent` and runs: `id (name) state parent …`.
fn child_of(parent: Pid, stat: &str) -> Option<(Pid, String)> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut rest = rest.split(' ');
    let is_over = matches!(rest.next()?, "Z" | "X");
    let its_parent: i32 = rest.next()?.parse().ok()?;
    let is_child = its_parent == parent.as_raw_pid() && !is_over;
    is_child.then_some((Pid::from_raw(id.parse().ok()?)?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_told_by_parent_and_state() {
        let parent = Pid::from_raw(7).unwrap();
        let child = |stat| child_of(parent, stat).map(|(_, name)| name);
        assert_eq!(child("12 (a (b) c) S 7 1 1").as_deref(), Some("a (b) c"));
        assert_eq!(child("12 (ended) Z 7 1 1"), None);
        assert_eq!(child("12 (another's) S 8 1 1"), None);
    }
}
