//! Tests of the test cluster itself: it enforces pod security.

use minichat_cluster::Kubectl;
use minichat_tests::cluster::{self, TestNamespace};
use serde_json::json;

/// K8S-52
#[tokio::test]
async fn a_pod_with_a_volume_runs_in_a_restricted_namespace() {
    let kubeconfig = cluster::node_kubeconfig().unwrap();
    let client = cluster::client(&kubeconfig).await.unwrap();
    let namespace = TestNamespace::create(&client, "pods").await.unwrap();
    namespace.restrict(&client).await.unwrap();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace.name()},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "sleeper", "namespace": namespace.name()},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "sleeper", "image": "minichat.dev/pause:1", "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    });
    let kubectl = Kubectl::new(&kubeconfig).unwrap();
    kubectl.apply(&claim).unwrap();
    kubectl.apply(&pod).unwrap();
    let in_namespace = format!("--namespace={}", namespace.name());
    let ready = [
        "wait",
        "--for=condition=Ready",
        "pod/sleeper",
        "--timeout=60s",
        &in_namespace,
    ];
    kubectl.run(&ready).unwrap();
    namespace.remove(&client).await.unwrap();
}
