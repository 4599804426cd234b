//! Installs the public HTTP clients with which Python programs upload files.

use std::path::PathBuf;

use crate::python_tool::PythonTool;

/// The test binary of `minichat-tests` that needs them.
pub(crate) const SUITE: &str = "upload_clients";
/// The environment variable through which the suite learns the path of a Python with the clients.
pub(crate) const PYTHON: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_PYTHON";

const TOOL: PythonTool = PythonTool {
    directory: "upload-clients",
    program: "python",
    requirements: "tests/upload-clients/requirements.txt",
};

/// The Python, with the clients installed unless the same versions are there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    TOOL.ensure()
}
