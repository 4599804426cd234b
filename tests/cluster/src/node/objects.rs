//! The API objects of every such cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::files::DNS_USER;
use crate::kubectl::Kubectl;

/// The storage class, which is the default one.
pub const STORAGE_CLASS: &str = "local";
/// Number of volumes that are free after a start.
const VOLUMES: usize = 32;

pub(super) fn apply(kubectl: &Kubectl, volumes: &Path) -> anyhow::Result<()> {
    let objects = [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": DNS_USER},
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces", "pods", "services"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        binding(DNS_USER, DNS_USER, DNS_USER),
        binding(
            "minichat:kube-proxy",
            "system:node-proxier",
            "system:kube-proxy",
        ),
        json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Retain",
        }),
    ];
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    add_volumes(kubectl, volumes)
}

/// Takes back the volumes whose claim is gone, and offers them empty.
pub(super) fn refresh_volumes(kubectl: &Kubectl, volumes: &Path) -> anyhow::Result<()> {
    let phases =
        "-o=jsonpath={range .items[?(@.status.phase==\"Released\")]}{.metadata.name}{\"\\n\"}{end}";
    for name in kubectl.run(&["get", "persistentvolumes", phases])?.lines() {
        kubectl.run(&["delete", "persistentvolume", name])?;
        // Only the tier's own volumes have a directory here.
        let _ = fs::remove_dir_all(volumes.join(name));
    }
    add_volumes(kubectl, volumes)
}

fn add_volumes(kubectl: &Kubectl, volumes: &Path) -> anyhow::Result<()> {
    let mut objects = Vec::with_capacity(VOLUMES);
    for number in 0..VOLUMES {
        let name = format!("local-{number}");
        let directory = volumes.join(&name);
        fs::create_dir_all(&directory)?;
        // Pods run as other users, and a host path ignores the pod's group.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        objects.push(volume(&name, &directory));
    }
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))
}

fn volume(name: &str, directory: &Path) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "hostPath": {"path": directory, "type": "Directory"},
        },
    })
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}
