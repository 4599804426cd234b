//! Changes of the machine outside the tier's directory: kernel settings, firewall chains, and files in places that
//! programs choose themselves. Everything that existed before stays unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::firewall::{self, Chain};

const FILE: &str = "machine.json";

/// Settings below `/proc/sys` that the tier, the kubelet or plugins change.
const SETTINGS: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Directories that the programs use whatever their configuration says, the innermost last.
const PLACES: &[&str] = &[
    "/etc/cni",
    "/etc/cni/net.d",
    BUILDERS_LOCK,
    "/opt/cni",
    "/run/containerd",
    SHIMS,
    "/run/containerd/runc",
    "/run/containerd/runc/k8s.io",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/usr/libexec/kubernetes/kubelet-plugins",
    "/usr/libexec/kubernetes/kubelet-plugins/volume",
    "/usr/libexec/kubernetes/kubelet-plugins/volume/exec",
    "/var/lib/cni",
    "/var/lib/cni/networks",
    RESULTS,
    "/var/lib/kubelet",
    DEVICE_PLUGINS,
    LOGS,
    "/var/log/pods",
];
/// Sockets of containerd's shims.
const SHIMS: &str = "/run/containerd/s";
/// Results of network plugins for each pod.
const RESULTS: &str = "/var/lib/cni/results";
/// The kubelet's own directory, with the same content each time.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// A lock file of the program that builds images, which looks for networks.
const BUILDERS_LOCK: &str = "/etc/cni/net.d/cni.lock";
/// Links to the logs of containers.
const LOGS: &str = "/var/log/containers";

/// The state of the machine before the tier was started.
#[derive(Debug, Serialize, Deserialize)]
struct Machine {
    settings: BTreeMap<String, String>,
    places: BTreeSet<PathBuf>,
    chains: BTreeSet<Chain>,
}

impl Machine {
    fn read() -> anyhow::Result<Self> {
        let read =
            |name: &&str| Some(((*name).to_owned(), fs::read_to_string(setting(name)).ok()?));
        let places = PLACES.iter().map(PathBuf::from);
        Ok(Self {
            settings: SETTINGS.iter().filter_map(read).collect(),
            places: places.filter(|place| place.exists()).collect(),
            chains: firewall::chains()?,
        })
    }

    fn is_new(&self, place: &str) -> bool {
        !self.places.contains(Path::new(place))
    }
}

/// Records the state of the machine. Call it before anything is started.
pub(super) fn remember(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let text = serde_json::to_string_pretty(&Machine::read()?)?;
    fs::write(directory.join(FILE), text)?;
    Ok(())
}

/// Restores the state that [`remember`] recorded, after every process of `directory` has ended. Returns what could not
/// be restored.
pub(super) fn restore(directory: &Path) -> anyhow::Result<Vec<String>> {
    let Ok(text) = fs::read_to_string(directory.join(FILE)) else {
        return Ok(Vec::new());
    };
    let before: Machine = serde_json::from_str(&text)?;
    for (name, value) in &before.settings {
        if fs::read_to_string(setting(name)).is_ok_and(|now| now != *value) {
            fs::write(setting(name), value)?;
        }
    }
    firewall::remove_since(&before.chains)?;
    remove_files(&before, directory)?;
    leftovers(&before)
}

fn leftovers(before: &Machine) -> anyhow::Result<Vec<String>> {
    let now = Machine::read()?;
    let chains = now.chains.difference(&before.chains);
    let chains = chains.filter(|chain| chain.is_ours());
    let settings = now.settings.iter();
    let settings = settings.filter(|(name, value)| before.settings.get(*name) != Some(value));
    Ok(chains
        .map(ToString::to_string)
        .chain(
            now.places
                .difference(&before.places)
                .map(|place| place.display().to_string()),
        )
        .chain(settings.map(|(name, _)| setting(name).display().to_string()))
        .collect())
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Other container runtimes may use the same places. So only files that are known to be the tier's are removed, and
/// then places that are new and empty.
fn remove_files(before: &Machine, directory: &Path) -> io::Result<()> {
    remove_entries(Path::new(SHIMS), is_dead_socket)?;
    let ours = directory.display().to_string();
    remove_entries(Path::new(RESULTS), |file| {
        fs::read_to_string(file).is_ok_and(|text| text.contains(&ours))
    })?;
    remove_entries(Path::new(LOGS), |link| {
        fs::read_link(link).is_ok_and(|target| target.starts_with(directory))
    })?;
    if before.is_new(DEVICE_PLUGINS) && Path::new(DEVICE_PLUGINS).exists() {
        fs::remove_dir_all(DEVICE_PLUGINS)?;
    }
    if before.is_new(BUILDERS_LOCK) && Path::new(BUILDERS_LOCK).exists() {
        fs::remove_file(BUILDERS_LOCK)?;
    }
    for place in PLACES.iter().rev().filter(|place| before.is_new(place)) {
        // A directory that is not empty is reported as left over.
        let _ = fs::remove_dir(place);
    }
    Ok(())
}

fn remove_entries(directory: &Path, is_ours: impl Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry?.path();
        if is_ours(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// No process listens on it any more.
fn is_dead_socket(path: &Path) -> bool {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.file_type().is_socket());
    let refused = || UnixStream::connect(path).map_err(|error| error.kind());
    is_socket && refused().is_err_and(|kind| kind == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_go_on_which_nobody_listens_and_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let living = UnixListener::bind(at("living")).unwrap();
        drop(UnixListener::bind(at("dead")).unwrap());
        fs::write(at("file"), "").unwrap();
        remove_entries(directory.path(), is_dead_socket).unwrap();
        assert!(at("living").exists() && at("file").exists());
        assert!(!at("dead").exists());
        drop(living);
    }

    #[test]
    fn links_go_that_lead_to_a_directory_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let ours = Path::new("/nowhere/cluster");
        let link =
            |name: &str, target: &Path| symlink(target, directory.path().join(name)).unwrap();
        link("ours", &ours.join("pod-logs/x"));
        link("other", Path::new("/nowhere/cluster-of-others/x"));
        remove_entries(directory.path(), |link| {
            fs::read_link(link).is_ok_and(|target| target.starts_with(ours))
        })
        .unwrap();
        let names = fs::read_dir(directory.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["other"]);
    }
}
