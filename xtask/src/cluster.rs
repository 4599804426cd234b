//! `cargo xtask cluster`: a real Kubernetes on this machine, for people.

use clap::{Args, Subcommand, ValueEnum};
use minichat_cluster::{ApiTier, programs, state};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start it, unless it runs, and print its kubeconfig
    Up {
        /// How much of it
        #[arg(long, value_enum, default_value_t)]
        tier: Tier,
    },
    /// Stop it and remove its files
    Down {
        /// How much of it; both tiers unless it is given
        #[arg(long, value_enum)]
        tier: Option<Tier>,
    },
    /// Say what runs
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Tier {
    /// etcd, API server, controller manager: any user, no pods
    #[default]
    Api,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    match options.action {
        Action::Up { tier: Tier::Api } => up_api(),
        Action::Down {
            tier: None | Some(Tier::Api),
        } => minichat_cluster::api::stop_all(&state::kept()?),
        Action::Status => status(),
    }
}

fn up_api() -> anyhow::Result<()> {
    let directory = state::kept()?;
    let tier = if ApiTier::is_up(&directory) {
        ApiTier::open(&directory)?
    } else {
        ApiTier::start(&directory)?
    };
    println!("export KUBECONFIG={}", tier.kubeconfig().display());
    println!(
        "export PATH={}:$PATH",
        programs::Program::Kubectl
            .path()?
            .parent()
            .unwrap_or(&directory)
            .display()
    );
    Ok(())
}

fn status() -> anyhow::Result<()> {
    let directory = state::kept()?;
    let is_up = ApiTier::is_up(&directory);
    println!("API tier: {}", if is_up { "up" } else { "down" });
    Ok(())
}
