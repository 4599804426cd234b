//! `cargo xtask foreign`: runs the data plane against `litellm`, a third-party proxy, in front of the scripted provider.
//! Prints the results and writes them to `docs/foreign-providers.md`.

mod cases;
mod client;
mod servers;

use std::fmt::Write as _;
use std::fs;

use anyhow::bail;
use clap::Args;

use crate::python_tool::PythonTool;
use crate::workspace;
use cases::{CASES, Case};
use servers::Servers;

/// The results of the last run.
const PAGE: &str = "docs/foreign-providers.md";

const LITELLM: PythonTool = PythonTool {
    directory: "litellm",
    program: "litellm",
    requirements: "tests/litellm/requirements.txt",
};

#[derive(Args)]
pub(crate) struct Options {
    /// Only print the table
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let program = LITELLM.ensure()?;
    servers::build()?;
    let servers = Servers::start(&program)?;
    let mut page = Page::new();
    let mut failed = 0;
    for case in CASES {
        let row = match case.play(servers.client()) {
            Ok(row) => row,
            Err(error) => {
                failed += 1;
                format!("**{}**", one_cell(&format!("{error:#}")))
            }
        };
        page.add(case, &row)?;
    }
    drop(servers);
    print!("{}", page.text);
    if !options.dry_run {
        fs::write(workspace::root().join(PAGE), &page.text)?;
    }
    if failed > 0 {
        bail!("{failed} of {} cases did not end as expected", CASES.len());
    }
    Ok(())
}

struct Page {
    text: String,
}

/// Why streamed and stored text may differ.
const THINK: &str = "\
One answer of vLLM is stored differently from how it was streamed: reasoning that begins without `<think>`, because
the chat template of the model already holds the opening tag, and that ends with `</think>`. minichat holds text back
only while more of the answer has already arrived. To hold all of it back would end streaming for every model that does
not reason. So a slow answer shows its reasoning as text first. When the closing tag arrives, that text is removed from
the answer: it is not stored, not replayed and not part of later prompts. To avoid this, start vLLM with
`--reasoning-parser`, which sends reasoning as events of its own.
";

impl Page {
    fn new() -> Self {
        let version = fs::read_to_string(workspace::root().join(LITELLM.requirements))
            .ok()
            .and_then(|pins| {
                let pin = pins.lines().find(|line| line.starts_with("litellm=="))?;
                Some(pin.to_owned())
            })
            .unwrap_or_default();
        let text = format!(
            "# Third-party providers\n\n\
             `cargo xtask foreign` writes this page. It places `{version}` between the data plane and the scripted\n\
             provider and sends each message through it. It checks that the streamed text is the text in the database\n\
             and that the chat accepts another message. A row in bold failed.\n\n\
             {THINK}\n\
             | Protocol | Model | Message | Result |\n|---|---|---|---|\n"
        );
        Self { text }
    }

    fn add(&mut self, case: &Case, row: &str) -> anyhow::Result<()> {
        writeln!(
            self.text,
            "| {} | `{}` | `{}` | {row} |",
            case.protocol, case.model, case.message
        )?;
        Ok(())
    }
}

/// A text that stays within its cell of a table.
fn one_cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
