//! `minichat-dataplane`: one binary, its roles as subcommands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use minichat_config::{ProcessConfig, process};
use minichat_telemetry::{LogFormat, LogSettings, StartError, Terminations, TraceSettings, Tracer};

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
        /// environment variable instead: `MINICHAT_SERVER_BIND_ADDR` sets
        /// `server.bind_addr`.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory of `ChatTenant`, `ChatQuota` and `Secret` documents.
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Serve { config, manifests } = Cli::parse().command;
    match serve(config.as_deref(), manifests) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minichat-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Option<&Path>, manifests: PathBuf) -> anyhow::Result<()> {
    let config = ProcessConfig::load(config, std::env::vars())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let tracer = telemetry(&config)?;
        std::panic::set_hook(Box::new(report_panic));
        let mut signals = Terminations::listen()?;
        let running = minichat_dataplane::start_traced(config, manifests, tracer.clone()).await?;
        signals.next().await;
        running.drain(signals).await;
        tracer.shutdown().await;
        Ok(())
    })
}

fn telemetry(config: &ProcessConfig) -> Result<Tracer, StartError> {
    let logs = LogSettings {
        level: &config.logging.level,
        format: match config.logging.format {
            process::LogFormat::Json => LogFormat::Json,
            process::LogFormat::Text => LogFormat::Text,
        },
    };
    let endpoint = config.tracing.otlp_endpoint.as_deref();
    let traces = endpoint
        .filter(|_| config.tracing.enabled)
        .map(|otlp_endpoint| TraceSettings {
            otlp_endpoint,
            sample_ratio: config.tracing.sample_ratio,
        });
    minichat_telemetry::start("dataplane", logs, traces)
}

/// Says where, never what: the payload of a panic may quote a user's text
/// (PLAT-165).
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, "panicked");
}
