//! Installs the public libraries with which a receiver of events verifies signatures and reads `CloudEvents`.

use std::path::PathBuf;

use crate::python_tool::PythonTool;

/// The test binary of `minichat-tests` that needs them.
pub(crate) const SUITE: &str = "webhooks";
/// The environment variable through which the suite learns the path of a Python with the libraries.
pub(crate) const PYTHON: &str = "MINICHAT_TEST_WEBHOOKS_PYTHON";

const TOOL: PythonTool = PythonTool {
    directory: "webhooks",
    program: "python",
    requirements: "tests/webhooks/requirements.txt",
};

/// The Python, with the libraries installed unless the same versions are there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    TOOL.ensure()
}
