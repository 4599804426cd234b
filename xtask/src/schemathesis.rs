//! The property-based client that the OpenAPI document is tried with.

use std::path::PathBuf;

use crate::python_tool::PythonTool;

/// The test binary of `minichat-tests` that needs it.
pub(crate) const SUITE: &str = "openapi";
/// Names the program to the suite.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_SCHEMATHESIS";

const TOOL: PythonTool = PythonTool {
    program: "schemathesis",
    requirements: "tests/schemathesis/requirements.txt",
};

/// The program, installed unless the same versions are there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    TOOL.ensure()
}
