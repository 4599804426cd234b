//! The scripted provider as a process of its own.

use std::net::SocketAddr;

use clap::Parser;
use minichat_tests::scripted_provider::ScriptedProvider;

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
    ScriptedProvider::start_on(arguments.listen)
        .await?
        .run()
        .await;
    Ok(())
}
