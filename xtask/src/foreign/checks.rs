//! `llm-comply` compares the scripted provider with the public specifications of both protocols.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::page::{Page, one_cell, pin};
use super::servers::{self, Provider};
use crate::process;
use crate::python_tool::PythonTool;

const LLM_COMPLY: PythonTool = PythonTool {
    directory: "llm-comply",
    program: "llm-comply",
    requirements: "tests/llm-comply/requirements.txt",
};

/// The protocols, their names for the program, and how many checks it makes at least.
const FORMATS: [(&str, &str, usize); 2] = [
    ("Responses", "open-responses", 13),
    ("chat completions", "openai-chat", 9),
];

/// A model whose name makes the program check reasoning too.
const MODEL: &str = "gpt-5";

pub(super) fn run(page: &mut Page) -> anyhow::Result<()> {
    let program = LLM_COMPLY.ensure()?;
    let provider = Provider::start("llm-comply")?;
    let words = format!(
        "`{}` makes requests to the scripted provider and compares its answers, streamed or not, with the\n\
         specifications of Open Responses and of chat completions.\n",
        pin(LLM_COMPLY.requirements, "llm-comply")?
    );
    page.section(
        "Checks of the scripted provider",
        &words,
        &["Protocol", "Check", "Result"],
    );
    for (protocol, format, at_least) in FORMATS {
        let mut command = Command::new(&program);
        command
            .args(["run", "--json", "--api-key", "none", "--model", MODEL])
            .args(["--format", format, "--base-url", &provider.base_url()]);
        let log = servers::place().join(format!("llm-comply-{format}.json"));
        // Its status says only whether every check passed.
        let output = process::output("llm-comply", &mut command, &log)?;
        let report: Value = serde_json::from_str(&output.text).with_context(|| {
            format!(
                "llm-comply ended with {}, see {}",
                output.status,
                log.display()
            )
        })?;
        let results = report["results"].as_array().context("no results")?;
        ensure!(
            results.len() >= at_least,
            "{format}: only {} checks",
            results.len()
        );
        for result in results {
            let name = result["name"].as_str().unwrap_or_default();
            page.row(&[protocol, name], verdict(result));
        }
    }
    Ok(())
}

fn verdict(result: &Value) -> anyhow::Result<String> {
    let list = |name: &str| {
        let texts = result[name].as_array().into_iter().flatten();
        let texts: Vec<&str> = texts.filter_map(Value::as_str).collect();
        one_cell(&texts.join("; "))
    };
    match result["status"].as_str() {
        Some("passed") if list("warnings").is_empty() => Ok("passed".to_owned()),
        Some("passed") => Ok(format!("passed, with a warning: {}", list("warnings"))),
        other => bail!("{}: {}", other.unwrap_or("no status"), list("errors")),
    }
}
