//! Container images, built from Dockerfiles without a daemon.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::command;
use crate::programs::Program;

/// Image of the process that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "minichat.dev/pause:1";

/// Builds `dockerfile` in the directory `context` and writes the image, called `name` (with a tag), to `archive`, in the
/// format of `docker save`. Needs root and buildah; nothing is pulled: the Dockerfile starts `FROM scratch`.
pub fn build(context: &Path, dockerfile: &Path, name: &str, archive: &Path) -> anyhow::Result<()> {
    let context = path(context)?;
    let dockerfile = path(dockerfile)?;
    let storage = "--storage-driver=overlay";
    command::run(
        "buildah",
        &[
            storage,
            "bud",
            "--isolation=chroot",
            "--pull-never",
            "--tag",
            name,
            "--file",
            dockerfile,
            context,
        ],
    )
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
    build(&context, &dockerfile, PAUSE, &archive)?;
    Ok(archive)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
