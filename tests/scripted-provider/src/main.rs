//! The scripted provider as a separate process.

use std::net::SocketAddr;

use clap::Parser;
use minichat_scripted_provider::ScriptedProvider;
use tokio::signal::unix::{SignalKind, signal};

/// A scripted model provider for tests; `/_control/` changes its answers.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:18080")]
    listen: SocketAddr,
    /// Count the bytes of uploaded files instead of keeping them.
    #[arg(long)]
    drop_files: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    // The kernel ignores SIGTERM for the first process of a container unless the process handles it.
    let mut terminated = signal(SignalKind::terminate())?;
    let provider = ScriptedProvider::start_on(arguments.listen).await?;
    if arguments.drop_files {
        provider.drop_files();
    }
    tokio::select! {
        () = provider.run() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}
