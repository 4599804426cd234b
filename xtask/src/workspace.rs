//! Paths and commands of this workspace.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// A command that runs the same cargo as this program, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    // Cargo sets variables about this package. If they were passed on, build scripts of other packages would run again.
    let is_of_package =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os() {
        if is_of_package(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Adds every file below `path` with one of `extensions` to `files`, or `path` itself. Skips hidden entries, `target`
/// and symbolic links.
pub(crate) fn find_files(
    path: &Path,
    extensions: &[&str],
    files: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let is_skipped = |name: &str| name.starts_with('.') || name == "target";
    walk(path, is_skipped, &mut |file| {
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        if extensions.contains(&extension.as_ref()) {
            files.push(file.to_owned());
        }
    })
}

/// Visits every file below `path`, or `path` itself. Skips entries by their names, and symbolic links.
pub(crate) fn walk(
    path: &Path,
    is_skipped: fn(&str) -> bool,
    visit: &mut impl FnMut(&Path),
) -> anyhow::Result<()> {
    let found =
        fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_file() {
        visit(path);
    }
    if !found.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    for entry in entries {
        let entry = entry?;
        if !is_skipped(&entry.file_name().to_string_lossy()) {
            walk(&entry.path(), is_skipped, visit)?;
        }
    }
    Ok(())
}
