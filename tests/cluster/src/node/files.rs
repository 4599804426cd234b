//! Configuration of the node's processes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::network::{BRIDGE, NODE_ADDRESS, NODE_PODS};
use super::{NODE, parts};
use crate::api::{POD_RANGE, kubeconfig_of};
use crate::pki::Authority;
use crate::{image, kubeconfig};

pub(super) const CONTAINERD: &str = "containerd.toml";
pub(super) const KUBELET: &str = "kubelet.json";
pub(super) const PROXY: &str = "kube-proxy.json";
pub(super) const DNS: &str = "Corefile";
/// The user of `CoreDNS`.
pub(super) const DNS_USER: &str = "minichat:coredns";

/// Writes every file that the processes of [`parts`] read.
pub(super) fn write(directory: &Path, server: &str, authority: &Authority) -> anyhow::Result<()> {
    let node = format!("system:node:{NODE}");
    for (file, user, group) in [
        (parts::KUBELET, node.as_str(), "system:nodes"),
        (parts::PROXY, "system:kube-proxy", "minichat"),
        (parts::SCHEDULER, "system:kube-scheduler", "minichat"),
        (parts::DNS, DNS_USER, "minichat"),
    ] {
        let identity = authority.client(user, group)?;
        let path = kubeconfig_of(directory, file);
        kubeconfig::write(&path, server, &authority.certificate(), user, &identity)?;
    }
    let cni = directory.join("cni");
    fs::create_dir_all(&cni)?;
    write_json(&cni.join("10-minichat.conflist"), &network(directory))?;
    fs::write(directory.join(CONTAINERD), containerd(directory))?;
    write_json(&directory.join(KUBELET), &kubelet(directory))?;
    write_json(&directory.join(PROXY), &proxy(directory))?;
    fs::write(directory.join(DNS), corefile(directory))?;
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)?)?;
    Ok(())
}

fn network(directory: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "minichat",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "hairpinMode": true, "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": directory.join("addresses"),
                    "ranges": [[{"subnet": NODE_PODS, "gateway": NODE_ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Lowering it takes a capability that root of a container or of a small virtual machine may lack.
restrict_oom_score_adj = true
# Below the state, so that cleaning up never meets the namespaces of others.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{runc}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
        root = at("containerd/root"),
        state = at("containerd/state"),
        opt = at("containerd/opt"),
        runc = at("containerd/runc"),
        socket = parts::socket(directory).display(),
        pause = image::PAUSE,
        cni = at("cni"),
    )
}

fn kubelet(directory: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": directory.join("pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": format!("unix://{}", parts::socket(directory).display()),
        "podLogsDir": directory.join("pod-logs"),
        "volumePluginDir": directory.join("volume-plugins"),
        // These iptables chains, one with a rule that drops packets, would remain after the kubelet.
        "makeIPTablesUtilChains": false,
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        // Only names of the cluster are resolved.
        "resolvConf": "",
        "address": NODE_ADDRESS,
        "healthzPort": 0,
        // Images cannot be pulled again, and the disk is shared.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "maxPods": 200,
    })
}

fn proxy(directory: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": kubeconfig_of(directory, parts::PROXY)},
        "hostnameOverride": NODE,
        "clusterCIDR": POD_RANGE,
        // Keeps the machine's own limits of connections.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// The names of the cluster. No other name exists.
fn corefile(directory: &Path) -> String {
    let kubeconfig = kubeconfig_of(directory, parts::DNS);
    format!(
        "cluster.local 10.in-addr.arpa {{
    bind {NODE_ADDRESS}
    errors
    kubernetes cluster.local 10.in-addr.arpa {{
        kubeconfig {} minichat
        ttl 1
    }}
}}
. {{
    bind {NODE_ADDRESS}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        kubeconfig.display()
    )
}
