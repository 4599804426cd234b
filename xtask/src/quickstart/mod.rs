//! `cargo xtask quickstart`: starts the data plane on example manifests, streams one answer, and keeps running.

pub(crate) mod api;
mod exposition;
mod servers;
mod show;

use std::env;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::process;
use api::Api;
use servers::Servers;

#[derive(Args)]
pub(crate) struct Options {
    /// End after the first answer instead of running until interrupted
    #[arg(long)]
    once: bool,
    /// Port of the API on loopback
    #[arg(long, default_value_t = 8087)]
    port: u16,
    /// Port of health, metrics and configuration on loopback
    #[arg(long, default_value_t = 9090)]
    admin_port: u16,
    /// Port of the scripted provider on loopback
    #[arg(long, default_value_t = 18080)]
    provider_port: u16,
    /// The message to send
    #[arg(long, default_value = MESSAGE)]
    message: String,
}

/// The default message.
pub(crate) const MESSAGE: &str = "Write two sentences about streams.";

/// The provider of the quickstart.
#[derive(Clone)]
pub(crate) enum Provider {
    /// The scripted double, on loopback.
    Scripted,
    /// The real API, with this key.
    OpenAi { key: String },
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let key = env::var("OPENAI_API_KEY")
        .ok()
        .filter(|key| !key.is_empty());
    let provider = key.map_or(Provider::Scripted, |key| Provider::OpenAi { key });
    servers::build()?;
    let mut servers = Servers::start(options, &provider)?;
    let api = Api::new(options.port, options.admin_port);
    converse(&api, &options.message)?;
    show::how_to_go_on(&api, servers.directory(), options);
    if options.once {
        return Ok(());
    }
    println!("\nRunning until Ctrl-C.");
    while !process::is_interrupted() {
        servers.check_alive()?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Creates a chat, streams one answer, and prints turn, quota and changed metrics.
pub(crate) fn converse(api: &Api, message: &str) -> anyhow::Result<()> {
    let before = api.metrics()?;
    let models = api.models()?;
    show::models(&models);
    let chat = api.create_chat()?;
    println!("\nYou:      {message}");
    let request_id = show::answer(api.send(&chat, message)?)?;
    show::turn(&api.turn(&chat, &request_id)?);
    show::quota(&api.quota()?);
    show::moved_metrics(&before, &api.metrics()?);
    Ok(())
}
