//! The scripted provider as a process of its own.

use std::net::SocketAddr;

use clap::Parser;
use minichat_scripted_provider::ScriptedProvider;
use tokio::signal::unix::{SignalKind, signal};

/// Answers generation calls as told (see `/_control/`).
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:18080")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    // The first process of a container is not ended by a signal that it does not ask for.
    let mut terminated = signal(SignalKind::terminate())?;
    let provider = ScriptedProvider::start_on(arguments.listen).await?;
    tokio::select! {
        () = provider.run() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}
