//! The processes of the node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::network::NODE_ADDRESS;
use super::{NODE, files};
use crate::api::kubeconfig_of;
use crate::command;
use crate::processes::Processes;
use crate::programs::Program;

pub(super) const CONTAINERD: &str = "containerd";
pub(super) const KUBELET: &str = "kubelet";
pub(super) const PROXY: &str = "kube-proxy";
pub(super) const SCHEDULER: &str = "kube-scheduler";
pub(super) const DNS: &str = "coredns";

/// The processes that the node tier adds.
pub(super) const NAMES: [&str; 5] = [CONTAINERD, KUBELET, PROXY, SCHEDULER, DNS];

const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// The path of containerd's socket.
pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}

pub(super) fn start_containerd(directory: &Path, processes: &Processes) -> anyhow::Result<()> {
    let mut containerd = Command::new("containerd");
    containerd
        .arg("--config")
        .arg(directory.join(files::CONTAINERD));
    processes.start(CONTAINERD, &mut containerd)?;
    processes.wait_until(CONTAINERD, "answers", STARTS_WITHIN, || {
        ctr(directory, &["version"]).is_ok()
    })
}

/// Starts all others. None of them waits for another.
pub(super) fn start_others(directory: &Path, processes: &Processes) -> anyhow::Result<()> {
    let config = |file: &str| format!("--config={}", directory.join(file).display());
    let kubeconfig =
        |user: &str| format!("--kubeconfig={}", kubeconfig_of(directory, user).display());

    let mut kubelet = Program::Kubelet.command()?;
    kubelet
        .arg(config(files::KUBELET))
        .arg(kubeconfig(KUBELET))
        .arg(format!(
            "--root-dir={}",
            directory.join("kubelet").display()
        ))
        .arg(format!(
            "--cert-dir={}",
            directory.join("kubelet-pki").display()
        ))
        .arg(format!("--hostname-override={NODE}"))
        .arg(format!("--node-ip={NODE_ADDRESS}"));
    processes.start(KUBELET, &mut kubelet)?;

    let mut proxy = Program::KubeProxy.command()?;
    processes.start(PROXY, proxy.arg(config(files::PROXY)))?;

    let mut scheduler = Program::KubeScheduler.command()?;
    scheduler
        .arg(kubeconfig(SCHEDULER))
        .args(["--leader-elect=false", "--secure-port=0"]);
    processes.start(SCHEDULER, &mut scheduler)?;

    let mut dns = Program::CoreDns.command()?;
    dns.arg("-conf").arg(directory.join(files::DNS));
    processes.start(DNS, &mut dns)
}

pub(super) fn load_image(directory: &Path, archive: &Path) -> anyhow::Result<()> {
    let archive = archive.display().to_string();
    ctr(
        directory,
        &["--namespace=k8s.io", "images", "import", &archive],
    )?;
    Ok(())
}

fn ctr(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket(directory));
    command::output(command.args(arguments), "")
}
