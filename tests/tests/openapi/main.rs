//! The OpenAPI document against the answers of a live data plane, by a client
//! that makes requests of it: valid ones, invalid ones and sequences.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use tokio::process::Command;

/// Names the program; `cargo xtask test` installs it.
const PROGRAM: &str = "MINICHAT_TEST_SCHEMATHESIS";

/// What every answer must satisfy.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    unsupported_method,allow_header_conformance,use_after_free,ensure_resource_availability";

fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::var_os(PROGRAM).filter(|value| !value.is_empty());
    let program = program.with_context(|| {
        format!("run this by `cargo xtask test`, or let {PROGRAM} name schemathesis")
    })?;
    Ok(program.into())
}

/// The requests are the same in every run.
fn command(program: &Path, document: &str, reports: &Path) -> Command {
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let mut command = Command::new(program);
    command
        .args(["run", document, "--checks", CHECKS])
        .args([
            "--seed",
            "1",
            "--generation-deterministic",
            "--max-examples",
            "30",
        ])
        .args(["--max-failures", "20", "--no-color"])
        .current_dir(reports)
        .env("PYTHONPATH", hooks)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

on_each_database! {
    /// API-27, API-30: status codes, media types, headers, bodies and events
    /// are what the document says, and what it forbids is refused.
    async fn the_api_does_what_its_document_says(env) {
        let program = program()?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let settings = "MINICHAT_AUTH_MODE=dev\nMINICHAT_AUTH_ALLOW_DEV=true";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let document = format!("http://{}/openapi.json", stack.app_addr());
        let reports = tempfile::tempdir()?;
        let output = command(&program, &document, reports.path()).output().await?;
        let told = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{told}{failed}");
    }
}
