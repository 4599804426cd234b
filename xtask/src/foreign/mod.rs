//! `cargo xtask foreign`: third-party programs judge this repository. `litellm`, a proxy, stands between the data plane
//! and the scripted provider. `llm-comply` compares the scripted provider with public specifications, and `codex`, a
//! client, has to understand it. Prints the results and writes them to `docs/foreign-providers.md`.

mod cases;
mod checks;
mod client;
mod codex;
mod page;
mod proxy;
mod servers;

use std::fs;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::workspace;
use page::Page;

/// The results of the last run.
const PAGE: &str = "docs/foreign-providers.md";

#[derive(Args)]
pub(crate) struct Options {
    /// Only print the page
    #[arg(long)]
    dry_run: bool,
    /// Run only these parts, and only print their results
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// litellm between data plane and scripted provider
    Litellm,
    /// llm-comply against the scripted provider
    LlmComply,
    /// codex against the scripted provider
    Codex,
}

impl Part {
    fn run(self, page: &mut Page) -> anyhow::Result<()> {
        match self {
            Self::Litellm => proxy::run(page),
            Self::LlmComply => checks::run(page),
            Self::Codex => codex::run(page),
        }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let wanted = match &options.parts[..] {
        [] => Part::value_variants(),
        some => some,
    };
    servers::build(wanted.contains(&Part::Litellm))?;
    let mut page = Page::new();
    for part in wanted {
        part.run(&mut page)?;
    }
    print!("{}", page.text());
    if !options.dry_run && options.parts.is_empty() {
        fs::write(workspace::root().join(PAGE), page.text())?;
    }
    if page.failed() > 0 {
        bail!("{} results are not as expected", page.failed());
    }
    Ok(())
}
