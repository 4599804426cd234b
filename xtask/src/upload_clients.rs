//! Installs the public HTTP clients with which programs and people upload files.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use minichat_cluster::packages::Package;

use crate::node_tool::NodeTool;
use crate::python_tool::PythonTool;
use crate::{process, workspace};

/// The test binary of `minichat-tests` that needs them.
pub(crate) const SUITE: &str = "upload_clients";

/// The directory with the programs that upload.
const SOURCE: &str = "tests/upload-clients";

const PYTHON: PythonTool = PythonTool {
    directory: "upload-clients",
    program: "python",
    requirements: "tests/upload-clients/requirements.txt",
};

/// What drives the browser.
const PLAYWRIGHT: NodeTool = NodeTool {
    directory: "upload-clients-node",
    program: "playwright-core",
    source: SOURCE,
};

/// The environment variables through which the suite learns where they are. Everything is installed or built unless it
/// is there already.
pub(crate) fn ensure() -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let node = Package::new("node", "nodejs").ensure(Vec::new)?;
    let chromium = Package::new("chromium", "chromium").ensure(Vec::new)?;
    Ok(vec![
        ("MINICHAT_TEST_UPLOAD_CLIENTS_PYTHON", PYTHON.ensure()?),
        ("MINICHAT_TEST_UPLOAD_CLIENTS_GO", build_go()?),
        ("MINICHAT_TEST_UPLOAD_CLIENTS_NODE", node),
        ("MINICHAT_TEST_UPLOAD_CLIENTS_NODE_MODULES", node_modules()?),
        ("MINICHAT_TEST_UPLOAD_CLIENTS_CHROMIUM", chromium),
    ])
}

/// The directory with the packages of Node.
fn node_modules() -> anyhow::Result<PathBuf> {
    let program = PLAYWRIGHT.ensure()?;
    let modules = program.ancestors().nth(2);
    Ok(modules.context("the program has no directory")?.to_owned())
}

/// Builds the program in Go, which has no dependencies.
fn build_go() -> anyhow::Result<PathBuf> {
    let program = workspace::target().join("tools/upload-clients-go/upload");
    let directory = program.parent().context("the program has no directory")?;
    std::fs::create_dir_all(directory)?;
    let mut build = Command::new("go");
    build
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        .current_dir(workspace::root().join(SOURCE))
        .args(["build", "-trimpath", "-o"])
        .arg(&program)
        .arg("upload.go")
        .stdin(Stdio::null());
    process::run("go build", &mut build)?;
    Ok(program)
}
