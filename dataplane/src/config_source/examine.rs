//! Reads the tenants of a source without serving them and without a database,
//! for `check-config`.

use std::io;
use std::path::Path;

use minichat_config::process::TenantSource;
use minichat_crds::manifests::Concern;
use minichat_crds::{Manifests, RenderSettings};

use super::directory::{self, DirectoryReader};
use super::folder;
use super::manifests::ManifestReader;

/// The contents of a source.
#[derive(Debug, Default)]
pub struct Examined {
    /// Every tenant that would be served.
    pub tenants: Vec<String>,
    /// Everything that would be refused, with its location.
    pub faults: Vec<String>,
    /// What works but is probably a mistake, and what could not be checked.
    pub remarks: Vec<String>,
}

/// Reads `source` as `serve` would.
pub fn examine(source: &TenantSource, settings: &RenderSettings) -> Examined {
    let (path, examined) = match source {
        TenantSource::Manifests(path) => (path, manifests(path, settings)),
        TenantSource::Directory(path) => (path, rendered(path, settings)),
        TenantSource::Kubernetes { pool, .. } => {
            return Examined {
                remarks: vec![format!(
                    "the tenants of the pool {pool} are in the cluster and are not checked"
                )],
                ..Examined::default()
            };
        }
    };
    match examined {
        Ok(mut examined) => {
            if examined.tenants.is_empty() && examined.faults.is_empty() {
                let remark = format!("{} contains no tenant", path.display());
                examined.remarks.push(remark);
            }
            examined
        }
        Err(error) => Examined {
            faults: vec![format!("{} cannot be read: {error}", path.display())],
            ..Examined::default()
        },
    }
}

fn manifests(directory: &Path, settings: &RenderSettings) -> io::Result<Examined> {
    let files = folder::read::<ManifestReader>(directory)?;
    let Manifests {
        tenants, problems, ..
    } = Manifests::parse(&files, settings);
    let is_shared = |name| {
        let shared = Concern::SharedId(name);
        problems.iter().any(|problem| problem.concerns == shared)
    };
    let mut examined = Examined {
        faults: problems.iter().map(ToString::to_string).collect(),
        ..Examined::default()
    };
    for tenant in tenants.into_values() {
        if is_shared(tenant.name.clone()) {
            continue;
        }
        let name = &tenant.name;
        let warnings = tenant.rendered.warnings.iter();
        examined
            .remarks
            .extend(warnings.map(|warning| format!("{name}: {warning}")));
        examined.tenants.push(name.to_string());
    }
    Ok(examined)
}

fn rendered(path: &Path, settings: &RenderSettings) -> io::Result<Examined> {
    let mut examined = Examined::default();
    for (place, tenant) in directory::examine(&folder::read::<DirectoryReader>(path)?, settings) {
        match tenant {
            Ok(tenant) => examined.tenants.push(tenant.to_string()),
            Err(error) if place.is_empty() => examined.faults.push(error),
            Err(error) => examined.faults.push(format!("{place}: {error}")),
        }
    }
    Ok(examined)
}
