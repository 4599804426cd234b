//! The API tier: etcd, API server, controller manager.

mod parts;
mod plan;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::audit::{self, Write};
use crate::kubectl::Kubectl;
use crate::pki::{self, Authority};
use crate::processes::Processes;
use crate::programs::API_TIER;
use crate::steps::{Step, Steps};
use crate::{kubeconfig, state};

pub(crate) use parts::{POD_RANGE, SERVICE_RANGE};
pub(crate) use plan::{Network, Plan};

const STARTS_WITHIN: Duration = Duration::from_mins(2);
/// How long the API server may take to finish its requests and stop.
const API_SERVER_PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// The step of starting it.
pub(crate) const STARTING: &str = "starting the API server";

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// A running API tier in a directory. It keeps running when this is dropped; see [`OwnedApiTier`].
#[derive(Debug, Clone)]
pub struct ApiTier {
    directory: PathBuf,
    plan: Plan,
    processes: Processes,
    kubectl: Kubectl,
}

impl ApiTier {
    /// The steps of [`Self::start_by`]. Missing programs are built first.
    pub fn plan() -> anyhow::Result<Vec<Step>> {
        let mut plan = Self::missing_programs()?;
        plan.push(Step::new(STARTING, Duration::from_secs(8)));
        Ok(plan)
    }

    /// The steps of building the programs.
    pub(crate) fn missing_programs() -> anyhow::Result<Vec<Step>> {
        let steps = API_TIER.iter().map(|program| program.step());
        Ok(steps
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// The same as [`Self::start`], with progress.
    pub fn start_by(steps: &Steps, directory: &Path) -> anyhow::Result<Self> {
        Self::build(steps)?;
        steps.run(STARTING, || Self::start(directory))
    }

    /// Builds the missing programs.
    pub(crate) fn build(steps: &Steps) -> anyhow::Result<()> {
        for program in API_TIER {
            program.ensure_as_one_of(steps)?;
        }
        Ok(())
    }

    /// Starts a tier in `directory`, after removing what an earlier start left there. Missing programs are built first.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        stop_all(directory)?;
        let started = Self::start_in(directory, Network::Loopback);
        if started.is_err() {
            // The error contains the end of the logs; nothing else of the failed start is needed.
            let _ = stop_all(directory);
        }
        started.map(|(tier, _)| tier)
    }

    /// Starts a tier in a directory in which none runs.
    pub(crate) fn start_in(
        directory: &Path,
        network: Network,
    ) -> anyhow::Result<(Self, Authority)> {
        Self::build(&Steps::uncounted())?;
        state::create_private(directory)?;
        let plan = Plan::new(network)?;
        let authority = write_files(directory, &plan)?;
        plan.write(directory)?;
        let tier = Self::open(directory)?;
        tier.start_parts()?;
        Ok((tier, authority))
    }

    /// The tier that runs in `directory`.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            plan: Plan::read(directory)?,
            processes: Processes::of(directory),
            kubectl: Kubectl::new(&kubeconfig_of(directory, "admin"))?,
        })
    }

    /// Whether all parts of the tier run in `directory` and the API server answers.
    pub fn is_up(directory: &Path) -> bool {
        let parts = [ETCD, API_SERVER, CONTROLLER_MANAGER];
        let processes = Processes::of(directory);
        parts.iter().all(|name| processes.is_running(name))
            && Self::open(directory).is_ok_and(|tier| tier.kubectl.is_server_ready())
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig_of(&self.directory, "admin")
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Every write that the API server has answered, oldest first.
    pub fn writes(&self) -> anyhow::Result<Vec<Write>> {
        audit::read(&parts::audit_log(&self.directory))
    }

    /// Stops the API server. Its data stays.
    pub fn stop_api_server(&self) -> anyhow::Result<()> {
        self.processes.stop(API_SERVER, API_SERVER_PATIENCE)
    }

    /// Starts the API server again on the same address and waits until it is ready.
    pub fn start_api_server(&self) -> anyhow::Result<()> {
        let mut command = parts::api_server(&self.directory, &self.plan)?;
        self.processes.start(API_SERVER, &mut command)?;
        self.processes
            .wait_until(API_SERVER, "becomes ready", STARTS_WITHIN, || {
                self.kubectl.is_server_ready()
            })
    }

    /// Ends the processes and removes the files.
    pub fn stop(&self) -> anyhow::Result<()> {
        stop_all(&self.directory)
    }

    pub(crate) fn server(&self) -> String {
        self.plan.server()
    }

    fn start_parts(&self) -> anyhow::Result<()> {
        let mut command = parts::etcd(&self.directory, &self.plan)?;
        self.processes.start(ETCD, &mut command)?;
        self.processes
            .wait_until(ETCD, "accepts connections", STARTS_WITHIN, || {
                TcpStream::connect(("127.0.0.1", self.plan.etcd_port)).is_ok()
            })?;
        self.start_api_server()?;
        let mut command = parts::controller_manager(&self.directory, &self.plan)?;
        self.processes.start(CONTROLLER_MANAGER, &mut command)?;
        // Pods and tokens need it before anything else.
        let account = ["get", "serviceaccount", "default", "--namespace=default"];
        self.processes.wait_until(
            CONTROLLER_MANAGER,
            "creates ServiceAccounts",
            STARTS_WITHIN,
            || self.kubectl.run(&account).is_ok(),
        )
    }
}

/// An API tier for this process only. It is removed when this is dropped. If the process is killed, the next start of
/// an API tier cleans up.
#[derive(Debug)]
pub struct OwnedApiTier {
    tier: ApiTier,
    directory: PathBuf,
}

impl OwnedApiTier {
    /// Starts a tier.
    pub fn start() -> anyhow::Result<Self> {
        state::clean_orphans(stop_all)?;
        let directory = state::for_this_process()?;
        let tier = ApiTier::start(&directory.join(state::INSTANCE))?;
        Ok(Self { tier, directory })
    }
}

impl std::ops::Deref for OwnedApiTier {
    type Target = ApiTier;

    fn deref(&self) -> &ApiTier {
        &self.tier
    }
}

impl Drop for OwnedApiTier {
    fn drop(&mut self) {
        // If it cannot be stopped now, the next start cleans up.
        let _ = self.tier.stop().is_ok() && fs::remove_dir_all(&self.directory).is_ok();
    }
}

/// The kubeconfig of one user of the instance in `directory`.
pub(crate) fn kubeconfig_of(directory: &Path, user: &str) -> PathBuf {
    directory.join(format!("{user}.kubeconfig"))
}

/// Ends the processes of `directory`, the clients of the API server first, and removes the directory.
pub fn stop_all(directory: &Path) -> anyhow::Result<()> {
    stop_processes(directory)?;
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// Ends the processes of `directory`.
pub(crate) fn stop_processes(directory: &Path) -> anyhow::Result<()> {
    let processes = Processes::of(directory);
    processes.stop(CONTROLLER_MANAGER, PATIENCE)?;
    processes.stop(API_SERVER, API_SERVER_PATIENCE)?;
    processes.stop(ETCD, PATIENCE)
}

/// Certificates, keys, kubeconfigs and policies.
fn write_files(directory: &Path, plan: &Plan) -> anyhow::Result<Authority> {
    let pki = directory.join("pki");
    fs::create_dir_all(&pki)?;
    let authority = Authority::create()?;
    fs::write(pki.join("ca.crt"), authority.certificate())?;
    let names = parts::SERVER_NAMES;
    authority
        .server(names, &plan.server_addresses())?
        .write(&pki, "api-server")?;
    authority
        .client("kube-apiserver", "system:masters")?
        .write(&pki, "kubelet-client")?;
    pki::write_token_key(&pki)?;
    for (file, user, group) in [
        ("admin", "admin", "system:masters"),
        (
            CONTROLLER_MANAGER,
            "system:kube-controller-manager",
            "minichat",
        ),
    ] {
        let identity = authority.client(user, group)?;
        let path = kubeconfig_of(directory, file);
        kubeconfig::write(
            &path,
            &plan.server(),
            &authority.certificate(),
            user,
            &identity,
        )?;
    }
    fs::write(directory.join(parts::AUDIT_POLICY), audit::POLICY)?;
    Ok(authority)
}
