//! `minichat-operator`: one binary, its roles as subcommands.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use minichat_operator::Settings;
use minichat_telemetry::{LogSettings, Terminations};

#[derive(Parser)]
#[command(
    name = "minichat-operator",
    version,
    about = "Brings ChatTenants and ChatQuotas to the pods that serve them."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the custom resources and render them.
    Run(Box<Settings>),
    /// Print the custom resource definitions, for `kubectl apply -f -`.
    Crd,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(settings) => run(*settings),
        Command::Crd => print_definitions(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minichat-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let logs = LogSettings {
            level: &settings.log_level,
            format: settings.log_format.into(),
        };
        minichat_telemetry::start("operator", logs, None)?;
        let mut signals = Terminations::listen()?;
        let running = minichat_operator::start(settings).await?;
        tokio::select! {
            () = signals.next() => {
                running.stop().await;
                Ok(())
            }
            reason = running.ended() => Err(reason),
        }
    })
}

fn print_definitions() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for file in minichat_crds::generate::files()? {
        if file.path.starts_with("crds/manifests/") {
            write!(out, "---\n{}", file.content)?;
        }
    }
    Ok(())
}
