//! `minichat-dataplane`: one binary, its roles as subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use minichat_config::ProcessConfig;
use minichat_telemetry::{Terminations, logs};

#[derive(Parser)]
#[command(name = "minichat-dataplane", version, about = "Serves chat tenants.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the tenants of a directory of manifests.
    Serve {
        /// Process configuration (YAML). Every key can be given as an
        /// environment variable instead: MINICHAT_SERVER_BIND_ADDR sets
        /// server.bind_addr.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory of ChatTenant, ChatQuota and Secret documents.
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Serve { config, manifests } = Cli::parse().command;
    match serve(config, manifests) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minichat-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Option<PathBuf>, manifests: PathBuf) -> anyhow::Result<()> {
    let config = ProcessConfig::load(config.as_deref(), std::env::vars())?;
    logs::init(&config.logging, "dataplane").context("logs cannot be started")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminations = Terminations::listen()?;
        let running = minichat_dataplane::start(config, manifests).await?;
        terminations.next().await;
        running.drain(terminations).await;
        Ok(())
    })
}
