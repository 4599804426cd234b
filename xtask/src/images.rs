//! `cargo xtask images`: the images of the Dockerfile, with programs that cargo builds on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use minichat_cluster::NodeTier;
use minichat_cluster::image;
use sha2::{Digest as _, Sha256};

use crate::{process, workspace};

/// The targets of the Dockerfile; an image is called `minichat-` and its target.
const TARGETS: [&str; 3] = ["dataplane", "operator", "scripted-provider"];
/// The registry and path that a node adds to an image name without a registry.
const REGISTRY: &str = "docker.io/library";

/// Images in archives of the format of `docker save`.
pub(crate) struct Images {
    directory: PathBuf,
    tag: String,
}

/// Builds the images and prints where they are.
pub(crate) fn run() -> anyhow::Result<()> {
    let images = Images::build()?;
    println!("Load these into a cluster of your own, such as by `kind load image-archive FILE`:");
    for target in TARGETS {
        let (archive, name) = (images.archive(target), images.name(target));
        let size = fs::metadata(&archive)?.len();
        let megabytes = size.div_ceil(100_000);
        println!(
            "  {}  {:>4}.{} MB  {name}",
            archive.display(),
            megabytes / 10,
            megabytes % 10
        );
    }
    println!("The chart takes them with --set image.tag={}", images.tag);
    Ok(())
}

impl Images {
    /// Compiles what has changed. The tag is a hash of the images' content, so pods with different tags run different
    /// programs.
    pub(crate) fn build() -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "building images needs root; with Docker, use the commands at the top of the Dockerfile"
        );
        image::BUILDER.ensure(Vec::new)?;
        let directory = directory();
        let programs = compile()?;
        let revision = revision();
        let images = Self {
            tag: tag(&programs, &revision)?,
            directory,
        };
        images.package(&revision)?;
        Ok(images)
    }

    /// Where the archives are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tag of all of them.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Loads them into the node of this machine.
    pub(crate) fn load_into(&self, node: &NodeTier) -> anyhow::Result<()> {
        TARGETS
            .iter()
            .try_for_each(|target| node.load_image(&self.archive(target)))
    }

    fn archive(&self, target: &str) -> PathBuf {
        self.directory.join(format!("{target}.tar"))
    }

    fn name(&self, target: &str) -> String {
        format!("{REGISTRY}/minichat-{target}:{}", self.tag)
    }

    fn package(&self, revision: &str) -> anyhow::Result<()> {
        // The same tag is the same content.
        let packaged = self.directory.join("tag");
        if fs::read_to_string(&packaged).is_ok_and(|tag| tag == self.tag) {
            return Ok(());
        }
        let dockerfile = workspace::root().join("Dockerfile");
        let programs = format!("--build-context=programs={}", self.directory.display());
        let revision = format!("--build-arg=REVISION={revision}");
        let version = format!("--build-arg=VERSION={}", env!("CARGO_PKG_VERSION"));
        for target in TARGETS {
            let stage = format!("--target={target}");
            let options = [
                programs.as_str(),
                revision.as_str(),
                version.as_str(),
                stage.as_str(),
            ];
            let archive = self.archive(target);
            image::build(
                &self.directory,
                &dockerfile,
                &options,
                &self.name(target),
                &archive,
            )?;
        }
        fs::write(packaged, &self.tag)?;
        Ok(())
    }
}

fn directory() -> PathBuf {
    workspace::target().join("images")
}

/// Compiles the static programs with the profile `image`, and returns their directory.
fn compile() -> anyhow::Result<PathBuf> {
    let directory = directory().join("programs");
    fs::create_dir_all(&directory)?;
    let host = workspace::cargo()
        .args(["-vV"])
        .output()
        .context("cannot start cargo")?;
    let host = String::from_utf8(host.stdout)?;
    let Some(host) = host.lines().find_map(|line| line.strip_prefix("host: ")) else {
        bail!("`cargo -vV` prints no line `host:`");
    };
    let mut command = workspace::cargo();
    command.args(["static", "--profile", "image", "--target", host]);
    process::run("cargo static", &mut command)?;
    let built = workspace::target().join(host).join("image");
    for program in programs() {
        fs::copy(built.join(&program), directory.join(&program))
            .with_context(|| format!("copying {program}"))?;
    }
    Ok(directory)
}

fn programs() -> [String; TARGETS.len()] {
    TARGETS.map(|target| format!("minichat-{target}"))
}

/// The commit that is checked out; `unknown` outside of a clone.
fn revision() -> String {
    let git = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(workspace::root())
        .output();
    let revision = git.ok().filter(|output| output.status.success());
    let revision = revision.and_then(|output| String::from_utf8(output.stdout).ok());
    revision.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// A hash of everything that an image contains.
fn tag(programs_in: &Path, revision: &str) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.update(revision);
    hash.update(fs::read(workspace::root().join("Dockerfile"))?);
    for program in programs() {
        hash.update(fs::read(programs_in.join(program))?);
    }
    let mut tag = format!("{:x}", hash.finalize());
    tag.truncate(12);
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_compiles_with_the_toolchain_of_the_workspace() {
        let read = |file: &str| fs::read_to_string(workspace::root().join(file)).unwrap();
        let toolchain = read("rust-toolchain.toml");
        let channel = toolchain
            .lines()
            .find_map(|line| line.strip_prefix("channel = "))
            .unwrap()
            .trim_matches('"');
        let dockerfile = read("Dockerfile");
        assert!(dockerfile.contains(&format!("rust:{channel}-slim")));
        assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel}\n")));
        let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(dockerfile.matches(&version).count(), TARGETS.len());
    }
}
