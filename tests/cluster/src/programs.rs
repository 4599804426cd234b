//! The programs of a cluster. Go builds them once from pinned sources, into a cache by version.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::steps::{Step, Steps};

/// Directory of the cache, if it is not below the user's cache directory.
pub const CACHE: &str = "MINICHAT_CLUSTER_CACHE";

const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
const KUBERNETES: &str = include_str!("../go/kubernetes/go.mod");
const ETCD: &str = include_str!("../go/etcd/go.mod");
const HELM_VERSION: &str = "v3.21.4";
const COREDNS_VERSION: &str = "v1.15.0";

/// A program of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The store below the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// Garbage collection, service accounts, Deployments, Jobs.
    KubeControllerManager,
    /// Assigns pods to the node.
    KubeScheduler,
    /// Runs the pods of the node.
    Kubelet,
    /// Routes Service addresses on the node.
    KubeProxy,
    /// The command line of Kubernetes.
    Kubectl,
    /// Resolves the names of Services.
    CoreDns,
    /// Installs charts.
    Helm,
    /// Holds the namespaces of a pod.
    Pause,
}

/// The programs of the API tier.
pub const API_TIER: &[Program] = &[
    Program::Etcd,
    Program::KubeApiserver,
    Program::KubeControllerManager,
    Program::Kubectl,
];

/// The additional programs of the node tier.
pub const NODE_TIER: &[Program] = &[
    Program::Kubelet,
    Program::KubeScheduler,
    Program::KubeProxy,
    Program::CoreDns,
    Program::Helm,
    Program::Pause,
];

impl Program {
    /// Its path in the cache, whether or not it was built.
    pub fn path(self) -> anyhow::Result<PathBuf> {
        Ok(self.directory()?.join(self.name()))
    }

    /// Its path in the cache. Builds it if it is missing.
    pub fn ensure(self) -> anyhow::Result<PathBuf> {
        self.ensure_as_one_of(&Steps::uncounted())
    }

    /// The same; the build is one of `steps`.
    pub(crate) fn ensure_as_one_of(self, steps: &Steps) -> anyhow::Result<PathBuf> {
        let path = self.path()?;
        if !path.is_file() {
            let name = self.building();
            steps
                .run(&name, || self.build(&path))
                .with_context(|| name.clone())?;
        }
        Ok(path)
    }

    /// The step of building it; `None` if it exists.
    pub(crate) fn step(self) -> anyhow::Result<Option<Step>> {
        let seconds = match self {
            Self::KubeApiserver => 420,
            Self::CoreDns => 240,
            Self::Helm => 100,
            Self::Etcd => 90,
            Self::Kubelet => 75,
            Self::KubeControllerManager => 60,
            Self::KubeScheduler | Self::Kubectl => 45,
            Self::KubeProxy => 30,
            Self::Pause => 2,
        };
        let usual = Duration::from_secs(seconds);
        let step = (!self.path()?.is_file()).then(|| Step::new(self.building(), usual));
        Ok(step)
    }

    fn building(self) -> String {
        format!("building {}", self.name())
    }

    /// A command that runs it.
    pub(crate) fn command(self) -> anyhow::Result<Command> {
        Ok(Command::new(self.ensure()?))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Kubectl => "kubectl",
            Self::CoreDns => "coredns",
            Self::Helm => "helm",
            Self::Pause => "pause",
        }
    }

    fn directory(self) -> anyhow::Result<PathBuf> {
        let version = match self {
            Self::Etcd => format!("etcd-{}", etcd_version()?),
            Self::Helm => format!("helm-{HELM_VERSION}"),
            Self::CoreDns => format!("coredns-{COREDNS_VERSION}"),
            Self::Pause => "pause-1".to_owned(),
            _ => format!("kubernetes-{}", kubernetes_version()?),
        };
        let machine = format!("{}-{}", env::consts::OS, env::consts::ARCH);
        Ok(cache()?.join(machine).join(version))
    }

    fn build(self, path: &Path) -> anyhow::Result<()> {
        let directory = path.parent().context("a path without a directory")?;
        fs::create_dir_all(directory)?;
        // One build at a time. A second one would do the same work; it waits and finds the result of the first.
        let lock = cache()?.join("lock");
        let file = File::create(&lock)?;
        if file.try_lock().is_err() {
            eprintln!("another build goes on; waiting ({})", lock.display());
            file.lock()?;
        }
        if path.is_file() {
            return Ok(());
        }
        let unfinished = directory.join(format!(".{}.{}", self.name(), process::id()));
        fs::create_dir_all(&unfinished)?;
        let built = self
            .go(&unfinished)
            .and_then(|()| Ok(fs::rename(unfinished.join(self.name()), path)?));
        let _ = fs::remove_dir_all(&unfinished);
        built
    }

    /// Builds it with Go into `directory`.
    fn go(self, directory: &Path) -> anyhow::Result<()> {
        let mut command = Command::new("go");
        command
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .stdin(Stdio::null());
        let output = directory.join(self.name());
        match self {
            Self::Helm | Self::CoreDns => {
                let package = match self {
                    Self::Helm => format!("helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"),
                    _ => format!("github.com/coredns/coredns@{COREDNS_VERSION}"),
                };
                command
                    .env("GOBIN", directory)
                    .args(["install", "-trimpath", "-ldflags", "-s -w"])
                    .arg(package);
            }
            Self::Pause => {
                command.current_dir(Path::new(MODULES).join("pause"));
                command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]);
                // It runs in a Linux container, whatever this machine is.
                command.env("GOOS", "linux").arg(output).arg(".");
            }
            Self::Etcd => {
                command.current_dir(Path::new(MODULES).join("etcd"));
                command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]);
                command.arg(output).arg("go.etcd.io/etcd/server/v3");
            }
            _ => {
                command.current_dir(Path::new(MODULES).join("kubernetes"));
                command.args(["build", "-trimpath", "-ldflags"]);
                command.arg(version_flags(&kubernetes_version()?)).arg("-o");
                command
                    .arg(output)
                    .arg(format!("k8s.io/kubernetes/cmd/{}", self.name()));
            }
        }
        let status = command.status().context(
            "Kubernetes is built by Go, which cannot be started: install Go 1.26 or newer",
        )?;
        if !status.success() {
            bail!("go failed ({status})");
        }
        Ok(())
    }
}

/// Without these, the server reports v0.0.0, and charts that require a version of Kubernetes cannot be installed.
fn version_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    let of = |package: &str| {
        format!(
            " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        )
    };
    let packages = [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ];
    format!("-s -w{}", packages.map(of).concat())
}

/// Version of Kubernetes, such as `v1.36.4`.
pub fn kubernetes_version() -> anyhow::Result<String> {
    required(KUBERNETES, "k8s.io/kubernetes")
}

fn etcd_version() -> anyhow::Result<String> {
    required(ETCD, "go.etcd.io/etcd/server/v3")
}

/// The version of `module` that a `go.mod` requires.
fn required(go_mod: &str, module: &str) -> anyhow::Result<String> {
    let versions = go_mod.lines().filter_map(|line| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next())?
    });
    let mut versions = versions.filter(|word| word.starts_with('v'));
    let version = versions.next();
    Ok(version
        .with_context(|| format!("go.mod does not require {module}"))?
        .to_owned())
}

/// The directory of everything that is built once.
pub fn cache() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(own) = set(CACHE) {
        return Ok(PathBuf::from(own));
    }
    let users = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    let users =
        users.with_context(|| format!("set {CACHE} or HOME: built programs need a place"))?;
    Ok(users.join("minichat").join("cluster"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_go_modules() {
        assert!(kubernetes_version().unwrap().starts_with("v1."));
        assert!(etcd_version().unwrap().starts_with("v3."));
        assert_eq!(
            required(
                "require (\n\tk8s.io/api v1.2.3 // indirect\n)",
                "k8s.io/api"
            )
            .unwrap(),
            "v1.2.3"
        );
        assert!(required("module x", "k8s.io/api").is_err());
    }

    #[test]
    fn the_server_learns_its_version_at_build_time() {
        let flags = version_flags("v1.36.4");
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.4"));
        assert!(flags.contains("-X k8s.io/component-base/version.gitMinor=36"));
    }
}
