//! `cargo xtask cluster`: a real Kubernetes on this machine, for people.

mod demo;
mod for_tests;

use std::env;
use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use minichat_cluster::programs::Program;
use minichat_cluster::{ApiTier, NodeTier, Steps, api, state};

pub(crate) use for_tests::{Clusters, may_run};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start it, unless it runs, and print how to use it
    Up {
        /// Which part of it
        #[arg(long, value_enum, default_value_t)]
        tier: Tier,
        /// Install minichat as well, with a scripted provider and a first tenant, and stream one answer
        #[arg(long, conflicts_with = "tier")]
        demo: bool,
    },
    /// Stop it and remove its files
    Down {
        /// Which part of it; both tiers by default
        #[arg(long, value_enum)]
        tier: Option<Tier>,
    },
    /// Print what runs
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Tier {
    /// etcd, API server and controller manager: any user, no pods
    Api,
    /// The same and a node that runs pods: root on Linux
    #[default]
    Node,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    match options.action {
        Action::Up { demo: true, .. } => demo::run(),
        Action::Up {
            tier: Tier::Api, ..
        } => show(&up_api()?.kubeconfig()),
        Action::Up {
            tier: Tier::Node, ..
        } => {
            let tier = NodeTier::up(&Steps::begin(&NodeTier::plan()?))?;
            tier.keep()?;
            show(&tier.kubeconfig())
        }
        Action::Down { tier } => {
            if tier != Some(Tier::Api) {
                NodeTier::down()?;
            }
            if tier != Some(Tier::Node) {
                api::stop_all(&state::kept()?)?;
            }
            Ok(())
        }
        Action::Status => status(),
    }
}

fn up_api() -> anyhow::Result<ApiTier> {
    let directory = state::kept()?;
    if ApiTier::is_up(&directory) {
        return ApiTier::open(&directory);
    }
    ApiTier::start_by(&Steps::begin(&ApiTier::plan()?), &directory)
}

/// Prints the lines to paste into a shell.
fn show(kubeconfig: &Path) -> anyhow::Result<()> {
    println!("export KUBECONFIG={}", kubeconfig.display());
    let mut path = Vec::new();
    for program in [Program::Kubectl, Program::Helm] {
        let program = program.path()?;
        let directory = program
            .parent()
            .context("the path of a program has no directory")?;
        path.push(directory.to_owned());
    }
    let path = env::join_paths(path)?;
    println!("export PATH={}:$PATH", path.display());
    Ok(())
}

fn status() -> anyhow::Result<()> {
    let directory = state::kept()?;
    let api = ApiTier::is_up(&directory).then(|| ApiTier::open(&directory));
    let node = NodeTier::is_up().then(NodeTier::open);
    let api = api.transpose()?.map(|tier| tier.kubeconfig());
    let node = node.transpose()?.map(|tier| tier.kubeconfig());
    for (tier, kubeconfig) in [("api ", api), ("node", node)] {
        match kubeconfig {
            Some(kubeconfig) => println!("{tier}  up    {}", kubeconfig.display()),
            None => println!("{tier}  down"),
        }
    }
    Ok(())
}
