//! `minichat-dataplane`: one binary with a subcommand for each role.

mod cli;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use minichat_config::process::{self, CleanupConfig, JobConfig, ProcessConfig};
use minichat_dataplane::ask::{self, Question};
use minichat_dataplane::backup::{Backup, Destination};
use minichat_dataplane::books::{self, BooksQuery};
use minichat_dataplane::check_config;
use minichat_dataplane::dead_letter::{self, Decision, Listing};
use minichat_dataplane::erasure::command::Request;
use minichat_dataplane::tenant_owners::{self, Transfer};
use minichat_dataplane::{erasure, jobs};
use minichat_telemetry::{
    LogFormat, LogSettings, Signal, StartError, Terminations, TraceSettings, Tracer,
};

use cli::{Cli, Command, DeadLetterCommand, Source, TenantsCommand};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve { config, source } => {
            let environment = std::env::vars().chain(source.into_variables());
            let config = ProcessConfig::load(config.as_deref(), environment);
            config
                .map_err(anyhow::Error::new)
                .and_then(serve)
                .map(|()| true)
        }
        Command::CheckConfig { config, source } => {
            let environment = std::env::vars().chain(source.into_variables());
            check_config::check(config.as_deref(), environment, &mut std::io::stdout())
                .map_err(anyhow::Error::new)
        }
        Command::Ask {
            url,
            ca_file,
            headers,
            message,
        } => ask_once(&Question {
            url,
            ca_file,
            headers: headers.into_iter().collect(),
            message,
        })
        .map(|()| true),
        Command::Watchdog {
            config,
            once: _,
            interval,
        } => watchdog(config.as_deref(), interval.map(Duration::from_secs)),
        Command::Cleanup {
            config,
            source,
            once: _,
            interval,
            time_budget,
        } => cleanup(
            config.as_deref(),
            source,
            interval.map(Duration::from_secs),
            Duration::from_secs(time_budget),
        ),
        Command::Backup { config, to } => backup(config.as_deref(), to.into()).map(|()| true),
        Command::Books {
            config,
            tenant,
            month,
            output,
        } => {
            let query = BooksQuery {
                tenant,
                month,
                output,
            };
            return books(config.as_deref(), &query);
        }
        Command::Erase {
            config,
            tenant,
            user,
            timeout,
        } => erase(
            config.as_deref(),
            &Request {
                tenant,
                user,
                patience: Duration::from_secs(timeout),
            },
        ),
        Command::Migrate { config } => migrate(config.as_deref()),
        Command::Tenants { command } => tenants(command).map(|()| true),
        Command::DeadLetter { command } => dead_letters(command),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("minichat-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: ProcessConfig) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let tracer = telemetry(&config)?;
        std::panic::set_hook(Box::new(report_panic));
        let mut signals = Terminations::listen()?;
        let starting = minichat_dataplane::start_traced(config, tracer.clone());
        // The start may wait for the file of a process that is draining.
        let running = tokio::select! {
            running = starting => Some(running?),
            () = signals.next() => None,
        };
        if let Some(running) = running {
            signals.next().await;
            running.drain(signals).await;
        }
        tracer.shutdown().await;
        Ok(())
    })
}

fn ask_once(question: &Question) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(ask::ask(question, &mut std::io::stdout()))
}

fn watchdog(config: Option<&Path>, interval: Option<Duration>) -> anyhow::Result<bool> {
    let config = JobConfig::load(config, std::env::vars())?;
    runtime()?.block_on(async {
        job_telemetry("watchdog", &config.logging)?;
        let (stop, listening) = stopped_by_signals()?;
        let done = jobs::process::watchdog(&config, interval, &stop).await;
        listening.abort();
        done
    })
}

fn cleanup(
    config: Option<&Path>,
    source: Source,
    interval: Option<Duration>,
    budget: Duration,
) -> anyhow::Result<bool> {
    let environment = std::env::vars().chain(source.into_variables());
    let config = CleanupConfig::load(config, environment)?;
    runtime()?.block_on(async {
        job_telemetry("cleanup", &config.process.logging)?;
        let (stop, listening) = stopped_by_signals()?;
        let done = jobs::cleanup(&config, interval, budget, &stop).await;
        listening.abort();
        done
    })
}

/// Fires at the first SIGTERM or SIGINT, as long as the task runs.
fn stopped_by_signals() -> std::io::Result<(Signal, tokio::task::JoinHandle<()>)> {
    let mut signals = Terminations::listen()?;
    let stop = Signal::new();
    let stopping = stop.clone();
    let listening = tokio::spawn(async move {
        signals.next().await;
        stopping.fire();
    });
    Ok((stop, listening))
}

/// Nothing but the backup may go to standard output, so that nothing is logged.
fn backup(config: Option<&Path>, destination: Destination) -> anyhow::Result<()> {
    let config = JobConfig::load(config, std::env::vars())?;
    let is_piped = destination == Destination::StandardOutput;
    let made = runtime()?.block_on(async {
        let mut signals = Terminations::listen()?;
        let backup = Backup::prepare(&config, destination)?;
        backup.run(signals.next()).await
    })?;
    if is_piped {
        eprintln!("{made}");
    } else {
        writeln!(std::io::stdout(), "{made}")?;
    }
    Ok(())
}

/// Differences have an exit code of their own, other than that of a failure.
fn books(config: Option<&Path>, query: &BooksQuery) -> ExitCode {
    let (out, errors) = (&mut std::io::stdout(), &mut std::io::stderr());
    let compared = JobConfig::load(config, std::env::vars())
        .map_err(anyhow::Error::new)
        .and_then(|config| runtime()?.block_on(books::books(&config, query, out, errors)));
    match compared {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("minichat-dataplane: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn erase(config: Option<&Path>, request: &Request) -> anyhow::Result<bool> {
    let config = JobConfig::load(config, std::env::vars())?;
    let out = &mut std::io::stdout();
    runtime()?.block_on(async {
        job_telemetry("erase", &config.logging)?;
        erasure::command::erase(&config, request, out).await
    })
}

fn migrate(config: Option<&Path>) -> anyhow::Result<bool> {
    let config = JobConfig::load(config, std::env::vars())?;
    runtime()?.block_on(async {
        job_telemetry("migrate", &config.logging)?;
        jobs::process::migrate(&config).await.map(|()| true)
    })
}

fn tenants(command: TenantsCommand) -> anyhow::Result<()> {
    let out = &mut std::io::stdout();
    let load = |file: Option<PathBuf>| JobConfig::load(file.as_deref(), std::env::vars());
    match command {
        TenantsCommand::List { config, json } => {
            let config = load(config)?;
            runtime()?.block_on(tenant_owners::list(&config, json, out))
        }
        TenantsCommand::Transfer {
            config,
            tenant,
            from,
            to,
        } => {
            let config = load(config)?;
            let transfer = Transfer { tenant, from, to };
            runtime()?.block_on(tenant_owners::transfer(&config, &transfer, out))
        }
    }
}

fn dead_letters(command: DeadLetterCommand) -> anyhow::Result<bool> {
    let out = &mut std::io::stdout();
    let load = |file: Option<PathBuf>| JobConfig::load(file.as_deref(), std::env::vars());
    match command {
        DeadLetterCommand::List {
            config,
            kind,
            tenant,
            status,
            all,
            output,
        } => {
            let output = output.into();
            let listing = Listing {
                kind,
                tenant,
                status,
                all,
            };
            let config = load(config)?;
            let listed = dead_letter::list(&config, &listing, output, out);
            runtime()?.block_on(listed).map(|()| true)
        }
        DeadLetterCommand::Show { config, id } => {
            let config = load(config)?;
            let shown = dead_letter::show(&config, id, out);
            runtime()?.block_on(shown).map(|()| true)
        }
        DeadLetterCommand::Requeue { config, ids } => {
            let config = load(config)?;
            let decided = dead_letter::decide(&config, Decision::Requeue, &ids, out);
            runtime()?.block_on(decided)
        }
        DeadLetterCommand::Waiting { config, output } => {
            let config = load(config)?;
            let listed = dead_letter::waiting(&config, output.into(), out);
            runtime()?.block_on(listed).map(|()| true)
        }
        DeadLetterCommand::Bury { config, tenant } => {
            let config = load(config)?;
            let buried = dead_letter::bury(&config, tenant, out);
            runtime()?.block_on(buried).map(|()| true)
        }
        DeadLetterCommand::Discard { config, ids } => {
            let config = load(config)?;
            let decided = dead_letter::decide(&config, Decision::Discard, &ids, out);
            runtime()?.block_on(decided)
        }
    }
}

/// One thread for everything except the connections, which have their own
/// threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

fn job_telemetry(job: &'static str, logging: &process::Logging) -> Result<Tracer, StartError> {
    std::panic::set_hook(Box::new(report_panic));
    minichat_telemetry::start(job, log_settings(logging), None)
}

fn log_settings(logging: &process::Logging) -> LogSettings<'_> {
    LogSettings {
        level: &logging.level,
        format: match logging.format {
            process::LogFormat::Json => LogFormat::Json,
            process::LogFormat::Text => LogFormat::Text,
        },
    }
}

fn telemetry(config: &ProcessConfig) -> Result<Tracer, StartError> {
    let logs = log_settings(&config.logging);
    let endpoint = config.tracing.otlp_endpoint.as_deref();
    let traces = endpoint
        .filter(|_| config.tracing.enabled)
        .map(|otlp_endpoint| TraceSettings {
            otlp_endpoint,
            sample_ratio: config.tracing.sample_ratio,
        });
    minichat_telemetry::start("dataplane", logs, traces)
}

/// Logs the location only. The payload of a panic may quote a user's text
/// (PLAT-165).
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, "panicked");
}
