//! Removes a node tier, even if its starter was killed at any point.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::{machine, network, parts};
use crate::processes::Processes;
use crate::{api, command, wait};

const PATIENCE: Duration = Duration::from_secs(5);
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Ends every process and removes every trace of the tier in `directory`. Returns what could not be removed.
pub(super) fn everything(directory: &Path) -> anyhow::Result<Vec<String>> {
    let processes = Processes::of(directory);
    // These first, so that no container is restarted and no rule is written while they are removed.
    for name in [parts::KUBELET, parts::PROXY, parts::SCHEDULER, parts::DNS] {
        processes.stop(name, PATIENCE)?;
    }
    processes.stop(parts::CONTAINERD, PATIENCE)?;
    end_containers(directory)?;
    api::stop_processes(directory)?;
    unmount_below(directory)?;
    network::remove()?;
    remove_cgroups();
    let leftovers = machine::restore(directory)?;
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(leftovers)
}

/// Ends containers and their shims, which survive containerd. A shim is recognised by the socket on its command line, a
/// container by the process id in its bundle.
fn end_containers(directory: &Path) -> anyhow::Result<()> {
    let socket = parts::socket(directory).display().to_string();
    // The shims first. Otherwise they would report the end of their containers to a containerd that is gone.
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid {
            end(pid, "cmdline", &socket)?;
        }
    }
    let bundles = directory.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for entry in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().into_string() else {
            continue;
        };
        let pid = fs::read_to_string(entry.path().join("init.pid")).ok();
        if let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()) {
            end(pid, "cgroup", &id)?;
        }
    }
    Ok(())
}

/// Kills a process if its `/proc` file `witness` contains `mark`. Otherwise the id belongs to another process by now.
fn end(pid: i32, witness: &str, mark: &str) -> anyhow::Result<()> {
    let witness = PathBuf::from(format!("/proc/{pid}/{witness}"));
    let is_ours =
        || fs::read(&witness).is_ok_and(|text| String::from_utf8_lossy(&text).contains(mark));
    let Some(process) = Pid::from_raw(pid) else {
        return Ok(());
    };
    if !is_ours() {
        return Ok(());
    }
    // It may have ended in the meantime.
    let _ = kill_process(process, Signal::KILL);
    wait::until(&format!("the end of process {pid}"), KILLED_WITHIN, || {
        Ok(!is_ours() || is_zombie(pid))
    })
}

fn is_zombie(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tZ"))
}

/// Unmounts everything below `directory`, the innermost first.
fn unmount_below(directory: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<&str> = points
        .filter(|point| Path::new(point).starts_with(directory))
        .collect();
    points.reverse();
    for point in points {
        command::run("umount", &["--lazy", point])?;
    }
    Ok(())
}

/// Removes the empty groups that the kubelet leaves. Groups in use are not empty and stay.
fn remove_cgroups() {
    for controller in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        remove_groups(&controller.path().join("kubepods"));
    }
    remove_groups(Path::new("/sys/fs/cgroup/kubepods"));
}

fn remove_groups(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(group);
}
