//! Installs aimock, a third-party Node program that imitates providers.

use std::path::PathBuf;

use crate::node_tool::NodeTool;

/// The test binary of `minichat-tests` that needs aimock.
pub(crate) const SUITE: &str = "aimock";
/// The environment variable through which the suite learns the path of the program.
pub(crate) const PROGRAM: &str = "MINICHAT_TEST_AIMOCK";

const TOOL: NodeTool = NodeTool {
    directory: "aimock",
    program: "llmock",
    source: "tests/aimock",
};

/// The program, installed unless the same version is there already.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    TOOL.ensure()
}
