//! Writes the committed files that are generated from code, or reports which of them are stale. `cargo xtask generate`
//! builds this program and runs it in the root of the workspace.
#![expect(
    clippy::print_stdout,
    reason = "a command line program speaks on its output"
)]

mod chart;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Write nothing, fail when a file is stale
    #[arg(long)]
    check: bool,
}

/// A generated file: its path from the root of the workspace, and its content.
struct Generated {
    path: &'static str,
    content: String,
}

/// The one list of generated files. `docs/benchmarks.md` is not among them: `cargo xtask bench` measures it.
fn files() -> anyhow::Result<Vec<Generated>> {
    let mut files = vec![
        Generated {
            path: "docs/metrics.md",
            content: minichat_metrics::catalogue::markdown("mini_chat"),
        },
        Generated {
            path: "docs/configuration.md",
            content: minichat_config::process::reference::markdown(),
        },
        Generated {
            path: "docs/openapi.json",
            content: format!(
                "{:#}\n",
                minichat_dataplane::http::openapi::document("/mini-chat/v1")
            ),
        },
    ];
    files.extend(
        minichat_crds::generate::files()?
            .into_iter()
            .map(|file| Generated {
                path: file.path,
                content: file.content,
            }),
    );
    files.extend(chart::files()?);
    Ok(files)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let files = files()?;
    let stale: Vec<&Generated> = files.iter().filter(|file| file.is_stale()).collect();
    if arguments.check && !stale.is_empty() {
        let paths: Vec<&str> = stale.iter().map(|file| file.path).collect();
        bail!(
            "stale: {}; run `cargo xtask generate` and commit the result",
            paths.join(", ")
        );
    }
    for file in stale {
        file.write()
            .with_context(|| format!("cannot write {}", file.path))?;
        println!("{}", file.path);
    }
    Ok(())
}

impl Generated {
    fn is_stale(&self) -> bool {
        fs::read_to_string(self.path).ok().as_ref() != Some(&self.content)
    }

    fn write(&self) -> std::io::Result<()> {
        if let Some(directory) = Path::new(self.path).parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(self.path, &self.content)
    }
}
