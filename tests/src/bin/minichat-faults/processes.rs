//! The processes of a run. None may survive it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

/// How long processes may take to end after their signal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes every orphaned descendant a child of this process, such as a server
/// that runs in the background.
pub(crate) fn adopt_orphans() -> anyhow::Result<()> {
    set_child_subreaper(Some(getpid())).context("orphaned processes cannot be adopted")
}

/// Waits until no process of the run is left. Kills those that do not end, and
/// fails.
pub(crate) async fn all_ended() -> anyhow::Result<()> {
    let began = Instant::now();
    let mut remaining = children_of(getpid())?;
    while !remaining.is_empty() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
        remaining = children_of(getpid())?;
    }
    for &(process, _) in &remaining {
        // It may have ended in the meantime.
        let _ = kill_process(process, Signal::KILL);
    }
    ensure!(
        remaining.is_empty(),
        "processes outlived the run: {remaining:?}"
    );
    Ok(())
}

/// Waits until nothing is left of `killed`, and reaps those that became children of this
/// process. A process that has ended still exists until then: a server that finds its id
/// in an old `postmaster.pid` refuses to start.
pub(crate) async fn reap(killed: &[Pid]) -> anyhow::Result<()> {
    let began = Instant::now();
    while killed.iter().any(|&process| exists(process)) {
        ensure!(began.elapsed() < PATIENCE, "not ended: {killed:?}");
        for &process in killed {
            // An error means that it is another's child, or no process any more.
            let _ = waitpid(Some(process), WaitOptions::NOHANG);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn exists(process: Pid) -> bool {
    let directory = format!("/proc/{}", process.as_raw_pid());
    Path::new(&directory).exists()
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

/// Id and name of the process in this `/proc/PID/stat`, if it is a running
/// child of `parent`: `id (name) state parent …`.
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
