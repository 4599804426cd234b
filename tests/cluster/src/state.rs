//! The directories of instances, and their owners.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::processes::Identity;

/// The directory of this user's API tiers.
pub fn directory() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let users = set("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")));
    let users = users.context("set HOME: a cluster needs a place for its files")?;
    Ok(users.join("minichat").join("cluster"))
}

/// The API tier of `cargo xtask cluster up --tier api`.
pub fn kept() -> anyhow::Result<PathBuf> {
    Ok(directory()?.join("api"))
}

/// A new directory that belongs to this process. The process may create and remove [`INSTANCE`] in it.
pub(crate) fn for_this_process() -> anyhow::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = owned()?.join(format!("{}-{number}", process::id()));
    create_private(&directory)?;
    let owner = Identity::of(process::id());
    fs::write(directory.join(OWNER), owner.to_string())?;
    Ok(directory)
}

/// Calls `clean` for every directory whose process has ended, and removes the directory.
pub(crate) fn clean_orphans(clean: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    create_private(&owned()?)?;
    // Two processes must not clean the same directory.
    let lock = File::create(owned()?.join("lock"))?;
    lock.lock()?;
    for entry in fs::read_dir(owned()?)? {
        let directory = entry?.path();
        let owner = fs::read_to_string(directory.join(OWNER)).ok();
        let owner = owner.and_then(|text| Identity::parse(&text));
        if owner.is_some_and(|owner| !owner.is_alive()) {
            clean(&directory.join(INSTANCE))?;
            fs::remove_dir_all(directory)?;
        }
    }
    Ok(())
}

/// Creates a directory that only its user can read. It will contain the keys of a cluster.
pub(crate) fn create_private(directory: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

const OWNER: &str = "owner";
/// The instance inside an owned directory.
pub(crate) const INSTANCE: &str = "instance";

fn owned() -> anyhow::Result<PathBuf> {
    Ok(directory()?.join("owned"))
}
