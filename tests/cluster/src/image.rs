//! Container images, built from Dockerfiles without a daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::command;
use crate::packages::Package;
use crate::programs::Program;

/// The image of the process that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "minichat.dev/pause:1";

/// What [`build`] needs.
pub const BUILDER: Package = Package::new("buildah", "buildah");

/// Builds `dockerfile` in the directory `context`, with further `options` of `buildah bud`. Writes the image, called
/// `name` (with a tag), to `archive` in the format of `docker save`. Needs root and [`BUILDER`]. Nothing is pulled,
/// because every image starts `FROM scratch`.
pub fn build(
    context: &Path,
    dockerfile: &Path,
    options: &[&str],
    name: &str,
    archive: &Path,
) -> anyhow::Result<()> {
    let storage = "--storage-driver=overlay";
    let fixed = [storage, "bud", "--isolation=chroot", "--pull-never"];
    let this = ["--tag", name, "--file", path(dockerfile)?, path(context)?];
    command::run("buildah", &[&fixed, options, &this].concat())
        .with_context(|| format!("building the image {name}"))?;
    // buildah does not overwrite an archive.
    if archive.exists() {
        fs::remove_file(archive)?;
    }
    let target = format!("docker-archive:{}:{name}", path(archive)?);
    command::run("buildah", &[storage, "push", name, &target])?;
    command::run("buildah", &[storage, "rmi", name])?;
    Ok(())
}

/// Archive of [`PAUSE`], built in `directory`.
pub(crate) fn pause(directory: &Path) -> anyhow::Result<PathBuf> {
    let context = directory.join("pause");
    fs::create_dir_all(&context)?;
    let dockerfile = context.join("Dockerfile");
    fs::write(
        &dockerfile,
        "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n",
    )?;
    fs::copy(Program::Pause.ensure()?, context.join("pause"))?;
    let archive = directory.join("pause.tar");
    build(&context, &dockerfile, &[], PAUSE, &archive)?;
    Ok(archive)
}

/// Archive of an image with a shell and its commands, called `name`, built in `directory` from Debian's `BusyBox`.
pub fn busybox(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    BUILDER.ensure(Vec::new)?;
    let program = Package::new("busybox", "busybox-static").ensure(Vec::new)?;
    let programs = directory.join("bin");
    fs::create_dir_all(&programs)?;
    fs::copy(&program, programs.join("busybox"))?;
    let commands = command::output(Command::new(&program).arg("--list"), "")?;
    for command in commands.lines().filter(|name| *name != "busybox") {
        symlink("busybox", programs.join(command))?;
    }
    let dockerfile = directory.join("Dockerfile");
    fs::write(&dockerfile, "FROM scratch\nCOPY bin /bin\nENV PATH=/bin\n")?;
    let archive = directory.join("busybox.tar");
    build(directory, &dockerfile, &[], name, &archive)?;
    Ok(archive)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
