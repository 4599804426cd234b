//! The node tier: an API tier and one node on this machine that runs pods. Root on Linux only, and once per machine.

mod clean;
mod files;
mod firewall;
mod lock;
mod machine;
mod network;
mod objects;
mod parts;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::api::{self, ApiTier, Network};
use crate::helm::Helm;
use crate::image;
use crate::kubectl::Kubectl;
use crate::packages::{self, Package};
use crate::pki::Authority;
use crate::processes::Processes;
use crate::programs::NODE_TIER;
use crate::steps::{Step, Steps};
use crate::wait;
use lock::Lock;

/// Name of the only node.
pub const NODE: &str = "minichat";

/// One fixed directory, so that every start finds what an earlier one left.
const DIRECTORY: &str = "/var/lib/minichat-cluster";
const LOCK: &str = "/var/lib/minichat-cluster.lock";
const USERS: &str = "/var/lib/minichat-cluster.users";
/// Exists while only `cluster down` may stop the tier.
const KEPT: &str = "/var/lib/minichat-cluster.kept";

pub use network::{NODE_ADDRESS as ADDRESS, NODE_PODS as PODS};
pub use objects::STORAGE_CLASS;

const INSTALLING: &str = "installing containerd and the tools of a node";
const STARTING: &str = "starting the node";

const STARTS_WITHIN: Duration = Duration::from_mins(2);

const PACKAGES: &[Package] = &[
    Package::new("containerd", "containerd"),
    Package::new("runc", "runc"),
    Package::new("nft", "nftables"),
    Package::new("iptables", "iptables"),
    Package::new("conntrack", "conntrack"),
    image::BUILDER,
    Package::new("ip", "iproute2"),
    Package::new("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// A running node tier. It keeps running when this is dropped.
#[derive(Debug, Clone)]
pub struct NodeTier {
    api: ApiTier,
}

impl NodeTier {
    /// The steps of [`Self::up`]. Empty if the tier runs.
    pub fn plan() -> anyhow::Result<Vec<Step>> {
        if Self::runs() {
            return Ok(Vec::new());
        }
        let is_missing = !packages::missing(PACKAGES).is_empty();
        let install = is_missing.then(|| Step::new(INSTALLING, Duration::from_secs(40)));
        let mut plan: Vec<_> = install.into_iter().collect();
        plan.extend(ApiTier::missing_programs()?);
        for program in NODE_TIER {
            plan.extend(program.step()?);
        }
        plan.push(Step::new(api::STARTING, Duration::from_secs(8)));
        plan.push(Step::new(STARTING, Duration::from_secs(8)));
        Ok(plan)
    }

    /// The tier of this machine. Starts it with `steps` unless it runs.
    pub fn up(steps: &Steps) -> anyhow::Result<Self> {
        require_root()?;
        let _lock = lock()?;
        if Self::runs() {
            // On a busy machine it may be slow to answer, and a new one would be empty.
            let answers = || Ok(Self::is_up());
            let _ = wait::until(
                "the cluster of this machine answers",
                STARTS_WITHIN,
                answers,
            );
        } else {
            forget_kept()?;
        }
        if Self::is_up() {
            let tier = Self::open()?;
            objects::refresh_volumes(tier.kubectl(), &volumes())?;
            return Ok(tier);
        }
        if !packages::missing(PACKAGES).is_empty() {
            steps.run(INSTALLING, || packages::ensure(PACKAGES))?;
        }
        ApiTier::build(steps)?;
        for program in NODE_TIER {
            program.ensure_as_one_of(steps)?;
        }
        clean::everything(Path::new(DIRECTORY))?;
        let started = Self::start(steps);
        if started.is_err() {
            // The error contains the end of the logs; nothing else of the failed start is needed.
            let _ = clean::everything(Path::new(DIRECTORY));
        }
        started
    }

    /// Stops the tier and undoes every change to the machine. Fails if anything is left.
    pub fn down() -> anyhow::Result<()> {
        if !Path::new(DIRECTORY).exists() {
            // A failed start leaves these.
            if require_root().is_ok() {
                lock::remove_unused(USERS)?;
                lock::remove_unused(LOCK)?;
            }
            return Ok(());
        }
        require_root()?;
        let lock = lock()?;
        let leftovers = clean::everything(Path::new(DIRECTORY))?;
        forget_kept()?;
        lock::remove_unused(USERS)?;
        lock.remove()?;
        if !leftovers.is_empty() {
            bail!(
                "the cluster has ended, but of it is left on this machine: {}",
                leftovers.join(", ")
            );
        }
        Ok(())
    }

    /// Keeps the tier running after its other users have ended, until [`Self::down`].
    pub fn keep(&self) -> anyhow::Result<()> {
        fs::write(KEPT, "").with_context(|| format!("cannot write {KEPT}"))
    }

    /// The tier that runs.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self {
            api: ApiTier::open(Path::new(DIRECTORY))?,
        })
    }

    /// Whether all of it runs and the node accepts pods.
    pub fn is_up() -> bool {
        Self::runs()
            && ApiTier::is_up(Path::new(DIRECTORY))
            && Self::open().is_ok_and(|tier| tier.is_node_ready())
    }

    /// Whether the processes of the node exist.
    fn runs() -> bool {
        let processes = Processes::of(Path::new(DIRECTORY));
        parts::NAMES.iter().all(|name| processes.is_running(name))
    }

    /// Its API server, which suites may stop and start.
    pub fn api(&self) -> &ApiTier {
        &self.api
    }

    /// Kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.api.kubeconfig()
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        self.api.kubectl()
    }

    /// Helm as the administrator.
    pub fn helm(&self) -> anyhow::Result<Helm> {
        Helm::new(&self.kubeconfig())
    }

    /// Loads the images of an archive (see [`image::build`]) into the node, under their names in it. Pods use them with
    /// `imagePullPolicy: IfNotPresent` or `Never`.
    pub fn load_image(&self, archive: &Path) -> anyhow::Result<()> {
        parts::load_image(self.api.directory(), archive)
    }

    fn start(steps: &Steps) -> anyhow::Result<Self> {
        let directory = Path::new(DIRECTORY);
        let (api, authority) = steps.run(api::STARTING, || {
            machine::remember(directory)?;
            network::set_up()?;
            ApiTier::start_in(directory, Network::Node(network::NODE_ADDRESS))
        })?;
        let tier = Self { api };
        steps.run(STARTING, || tier.start_node(directory, &authority))?;
        Ok(tier)
    }

    fn start_node(&self, directory: &Path, authority: &Authority) -> anyhow::Result<()> {
        files::write(directory, &self.api.server(), authority)?;
        objects::apply(self.kubectl(), &volumes())?;
        let processes = Processes::of(directory);
        parts::start_containerd(directory, &processes)?;
        let pause = image::pause(directory)?;
        parts::load_image(directory, &pause)?;
        parts::start_others(directory, &processes)?;
        processes.wait_until(
            parts::KUBELET,
            "makes the node ready",
            STARTS_WITHIN,
            || self.is_node_ready(),
        )
    }

    fn is_node_ready(&self) -> bool {
        let path = "-o=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let status = self.kubectl().run(&["get", "node", NODE, path]);
        status.is_ok_and(|status| status == "True")
    }
}

/// A use of the tier on this machine. Several programs may use it at once.
#[derive(Debug)]
pub struct Use {
    users: Lock,
}

impl Use {
    /// Call it before [`NodeTier::up`], so that the tier is not stopped in between.
    pub fn begin() -> anyhow::Result<Self> {
        require_root()?;
        let users = Lock::take(USERS, File::lock_shared)?;
        Ok(Self { users })
    }

    /// Stops the tier, unless it is kept or another program uses it.
    pub fn end(self) -> anyhow::Result<()> {
        // The last of the other programs stops it.
        let Some(users) = self.users.alone()? else {
            return Ok(());
        };
        if Path::new(KEPT).exists() {
            return Ok(());
        }
        NodeTier::down()?;
        users.remove()
    }
}

/// Why this machine or user cannot have its own node, and what to do instead.
pub fn require_root() -> anyhow::Result<()> {
    if cfg!(target_os = "linux") && rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "a node of its own needs root on Linux; use a cluster that you have (kind, k3d, …): set {} to its kubeconfig",
        crate::KUBECONFIG
    )
}

/// Allows one start or stop at a time on this machine.
fn lock() -> anyhow::Result<Lock> {
    Lock::take(LOCK, |file| {
        if file.try_lock().is_err() {
            eprintln!(
                "another start or stop of the cluster of this machine goes on; waiting ({LOCK})"
            );
            file.lock()?;
        }
        Ok(())
    })
}

fn forget_kept() -> anyhow::Result<()> {
    if Path::new(KEPT).exists() {
        fs::remove_file(KEPT)?;
    }
    Ok(())
}

fn volumes() -> PathBuf {
    Path::new(DIRECTORY).join("volumes")
}
