//! The files of values that the documentation offers.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::helm::{Rendered, chart, helm, render_file};

const KINDS: [&str; 2] = [
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/ServiceMonitor",
];

/// Every example file, by its name.
pub(crate) fn files() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut files = vec![chart("demo-values.yaml")];
    for entry in fs::read_dir(chart("examples"))? {
        files.push(entry?.path());
    }
    let named = files.into_iter().filter_map(|path| {
        let name = path.file_stem()?.to_str()?.to_owned();
        Some((name, path))
    });
    Ok(named.collect())
}

fn rendered(name: &str) -> anyhow::Result<Rendered> {
    render_file(&chart(&format!("examples/{name}.yaml")), &KINDS)
}

/// K8S-70: with the defaults and with every example, without a cluster.
#[test]
fn every_example_renders_and_passes_a_strict_lint() -> anyhow::Result<()> {
    let chart = chart("minichat").display().to_string();
    helm(&["lint", "--strict", &chart])?;
    let files = files()?;
    assert!(files.len() >= 4, "{files:?}");
    for (name, path) in files {
        let path = path.display().to_string();
        helm(&["lint", "--strict", &chart, "--values", &path])?;
        let rendered = render_file(path.as_ref(), &KINDS)?;
        assert!(rendered.pods().len() >= 2, "{name}");
    }
    Ok(())
}

/// K8S-52: `restricted-v2` refuses ids outside the range of the namespace.
#[test]
fn on_openshift_no_pod_asks_for_an_id() -> anyhow::Result<()> {
    let rendered = rendered("openshift")?;
    assert_eq!(rendered.names("PodMonitor").len(), 2);
    assert_eq!(rendered.names("Pod"), ["minichat-test"]);
    for pod in rendered.pod_specs() {
        let text = pod.to_string();
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert!(!text.contains(id), "{id}: {pod}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    }
    Ok(())
}

/// K8S-70
#[test]
fn on_eks_images_are_pinned_and_the_pool_scales() -> anyhow::Result<()> {
    let rendered = rendered("eks")?;
    assert_eq!(rendered.names("HorizontalPodAutoscaler"), ["minichat-pool"]);
    assert_eq!(rendered.names("PodDisruptionBudget").len(), 2);
    assert_eq!(rendered.names("ServiceMonitor").len(), 2);
    for pod in rendered.pod_specs() {
        let image = pod["containers"][0]["image"].as_str().unwrap();
        assert!(image.contains("@sha256:"), "{image}");
    }
    let is_restricted = |policy: &&Value| policy["spec"]["egress"].is_array();
    let policies = rendered
        .all()
        .iter()
        .filter(|object| object["kind"] == "NetworkPolicy");
    assert_eq!(policies.filter(is_restricted).count(), 4);
    Ok(())
}
