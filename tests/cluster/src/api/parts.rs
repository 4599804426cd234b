//! The command lines of the API tier.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kubeconfig_of;
use super::plan::{Network, Plan};
use crate::programs::Program;

/// Addresses of Services.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Addresses of pods.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";

pub(super) const AUDIT_POLICY: &str = "audit-policy.json";

/// The names of the API server for pods and people.
pub(super) const SERVER_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

pub(super) fn audit_log(directory: &Path) -> PathBuf {
    directory.join("audit.log")
}

pub(super) fn etcd(directory: &Path, plan: &Plan) -> anyhow::Result<Command> {
    let client = format!("http://127.0.0.1:{}", plan.etcd_port);
    let peer = format!("http://127.0.0.1:{}", plan.etcd_peer_port);
    let mut command = Program::Etcd.command()?;
    // The data lives as long as the cluster, so nothing has to be flushed to disk.
    command.args(["--unsafe-no-fsync", "--name=minichat", "--log-level=error"]);
    flag(&mut command, "data-dir", directory.join("etcd").display());
    flag(&mut command, "listen-client-urls", &client);
    flag(&mut command, "advertise-client-urls", &client);
    flag(&mut command, "listen-peer-urls", &peer);
    flag(&mut command, "initial-advertise-peer-urls", &peer);
    flag(&mut command, "initial-cluster", format!("minichat={peer}"));
    Ok(command)
}

pub(super) fn api_server(directory: &Path, plan: &Plan) -> anyhow::Result<Command> {
    let pki = |name: &str| directory.join("pki").join(name).display().to_string();
    let mut command = Program::KubeApiserver.command()?;
    command.args([
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--api-audiences=https://kubernetes.default.svc",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--kubelet-preferred-address-types=InternalIP",
    ]);
    let flags = [
        (
            "etcd-servers",
            format!("http://127.0.0.1:{}", plan.etcd_port),
        ),
        ("secure-port", plan.api_server_port.to_string()),
        ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("api-server.crt")),
        ("tls-private-key-file", pki("api-server.key")),
        ("kubelet-client-certificate", pki("kubelet-client.crt")),
        ("kubelet-client-key", pki("kubelet-client.key")),
        ("service-account-key-file", pki("service-accounts.pub")),
        (
            "service-account-signing-key-file",
            pki("service-accounts.key"),
        ),
        (
            "audit-policy-file",
            directory.join(AUDIT_POLICY).display().to_string(),
        ),
        ("audit-log-path", audit_log(directory).display().to_string()),
    ];
    for (name, value) in flags {
        flag(&mut command, name, value);
    }
    match plan.network {
        Network::Loopback => command.args([
            "--bind-address=127.0.0.1",
            // No client reaches this server through its Service. The server refuses a loopback address, so this one is
            // from the documentation range (RFC 5737).
            "--advertise-address=203.0.113.1",
            "--endpoint-reconciler-type=none",
        ]),
        Network::Node(address) => command.arg(format!("--advertise-address={address}")),
    };
    Ok(command)
}

pub(super) fn controller_manager(directory: &Path, plan: &Plan) -> anyhow::Result<Command> {
    let pki = |name: &str| directory.join("pki").join(name).display().to_string();
    let mut command = Program::KubeControllerManager.command()?;
    command.args([
        "--leader-elect=false",
        "--use-service-account-credentials",
        // Nothing calls it, and several of them share a machine.
        "--secure-port=0",
    ]);
    let kubeconfig = kubeconfig_of(directory, "kube-controller-manager");
    flag(&mut command, "kubeconfig", kubeconfig.display());
    flag(&mut command, "root-ca-file", pki("ca.crt"));
    flag(
        &mut command,
        "service-account-private-key-file",
        pki("service-accounts.key"),
    );
    if let Network::Node(_) = plan.network {
        flag(&mut command, "cluster-cidr", POD_RANGE);
        command.arg("--allocate-node-cidrs");
    }
    Ok(command)
}

pub(crate) fn flag(command: &mut Command, name: &str, value: impl Display) {
    command.arg(format!("--{name}={value}"));
}
