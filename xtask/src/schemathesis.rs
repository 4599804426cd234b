//! Installs Schemathesis, a property-based client that compares the OpenAPI document with live answers.

use std::path::PathBuf;

use crate::python_tool::PythonTool;

/// The test binary of `minichat-tests` that needs Schemathesis.
pub(crate) const SUITE: &str = "openapi";
/// The environment variable through which the suite learns the path of the program.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_SCHEMATHESIS";

const TOOL: PythonTool = PythonTool {
    directory: "schemathesis",
    program: "schemathesis",
    requirements: "tests/schemathesis/requirements.txt",
};

/// The program, installed unless the same versions are there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    TOOL.ensure()
}
