//! The images of the Dockerfile.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use minichat_tests::installation::{self, Installation};
use serde_json::{Value, json};

/// Maximum size of each image in bytes.
const LARGEST: u64 = 40_000_000;

/// K8S-73
#[test]
fn an_image_is_one_small_program_of_an_ordinary_user_and_says_what_it_is() -> anyhow::Result<()> {
    for program in ["dataplane", "operator", "scripted-provider"] {
        let archive = installation::images()?.join(format!("{program}.tar"));
        let size = fs::metadata(&archive)?.len();
        assert!(size < LARGEST, "{program}: {size} bytes");

        let manifest = &member(&archive, "manifest.json")?[0];
        let name = format!("minichat-{program}");
        let tag = installation::image_tag()?;
        assert_eq!(
            manifest["RepoTags"],
            json!([format!("docker.io/library/{name}:{tag}")])
        );
        assert_eq!(manifest["Layers"].as_array().map(Vec::len), Some(1));

        let file = manifest["Config"].as_str().context("no configuration")?;
        let config = member(&archive, file)?["config"].take();
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"], json!([format!("/{name}")]));
        let label =
            |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
        assert_eq!(label("title"), *name);
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        let revision = label("revision");
        let revision = revision.as_str().context("no revision")?;
        assert!(revision == "unknown" || revision.len() == 40, "{revision}");
    }
    Ok(())
}

/// K8S-52, K8S-73
#[tokio::test]
async fn an_image_runs_by_itself_as_its_own_user() -> anyhow::Result<()> {
    let installation = Installation::prepare("images").await?;
    for program in ["dataplane", "operator"] {
        let name = format!("minichat-{program}");
        let image = format!("{name}:{}", installation::image_tag()?);
        // No user is set here: the kubelet refuses an image if it cannot tell that its user is not root.
        installation.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "program", "image": image, "imagePullPolicy": "IfNotPresent", "args": ["--version"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))?;
        let pod = format!("pod/{name}");
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        installation.kubectl(&["wait", ended, &pod, "--timeout=60s"])?;
        let printed = installation.kubectl(&["logs", &pod])?;
        let expected = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(printed, expected);
    }
    installation.remove().await
}

/// A JSON file in an archive.
fn member(archive: &Path, name: &str) -> anyhow::Result<Value> {
    let output = Command::new("tar")
        .args(["--extract", "--to-stdout", "--file"])
        .arg(archive)
        .arg(name)
        .output()?;
    ensure!(output.status.success(), "{name} is not in {archive:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}
