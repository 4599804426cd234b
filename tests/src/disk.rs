//! A small disk that tests can fill.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// A file system of limited size in memory. Unmounted when dropped, which must be before its directory is removed.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `size`, such as `96m`, at a directory that does not exist yet.
    pub fn mount(path: PathBuf, size: &str) -> anyhow::Result<Self> {
        std::fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        let mounted = mount.arg(&path).output().context("mount")?;
        ensure!(
            mounted.status.success(),
            "mount, which only root may do: {mounted:?}"
        );
        Ok(Self(path))
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it completely. Returns the file that fills it.
    pub fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        let mut size = 1 << 20;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
