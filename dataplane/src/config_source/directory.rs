//! The source `directory` (K8S-21): rendered tenants as files. A tenant is
//!
//! * a mounted Secret: the directory itself, or a subdirectory, that contains
//!   `tenant.json` and `credentials.json`;
//! * or a file: the rendered Secret as YAML or JSON.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Secret;
use minichat_config::{Faults, TenantConfig, yaml};
use minichat_core::{NamespacedName, TenantId};
use minichat_crds::manifests::Files;
use minichat_crds::rendered_secret::{self, CREDENTIALS_KEY, Keys, TENANT_KEY};
use minichat_crds::{RenderSettings, RenderedTenant, Revisions};
use notify::RecursiveMode;

use super::folder::Reader;
use super::rendered::{Delivery, Intake};

/// Separates directory and file in the names of [`Files`].
const SEPARATOR: char = '/';

/// Reads the rendered tenants of a directory.
pub(super) struct DirectoryReader {
    places_of: Places,
    intake: Intake,
    /// The tenant of each place (subdirectory or file), kept so that a fault is
    /// reported for the tenant that was there before.
    places: BTreeMap<String, TenantId>,
    /// The place in effect for each tenant.
    counted: BTreeMap<TenantId, String>,
}

impl DirectoryReader {
    pub(super) fn new(settings: RenderSettings, intake: Intake) -> Self {
        Self {
            places_of: Places::new(settings),
            intake,
            places: BTreeMap::new(),
            counted: BTreeMap::new(),
        }
    }
}

/// Reads every place of a directory without serving it: the tenant, or what is
/// wrong with it.
pub(super) fn examine(
    files: &Files,
    settings: &RenderSettings,
) -> Vec<(String, Result<TenantId, String>)> {
    let found = Places::new(settings.clone()).found(files).into_iter();
    let places = found.map(|(place, found)| {
        let tenant = match found.delivery {
            Delivery::Rendered(tenant) => Ok(tenant.config.tenant_id),
            Delivery::Refused { error, .. } => Err(error),
            Delivery::Gone => Err("holds nothing".to_owned()),
        };
        (place, tenant)
    });
    places.collect()
}

impl Reader for DirectoryReader {
    const DEPTH: RecursiveMode = RecursiveMode::Recursive;

    fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(name) = visible_name(&path) else {
                continue;
            };
            let keys = [TENANT_KEY, CREDENTIALS_KEY];
            let is_mounted = || keys.iter().any(|key| path.join(key).exists());
            if path.is_dir() && (!is_document(&path) || is_mounted()) {
                let paths = keys.map(|key| (format!("{name}{SEPARATOR}{key}"), path.join(key)));
                files.extend(paths);
            } else if is_key(name) {
                files.push((format!("{SEPARATOR}{name}"), path));
            } else if is_document(&path) {
                files.push((name.to_owned(), path));
            }
        }
        Ok(files)
    }

    async fn load(&mut self, files: Files) -> bool {
        let mut deliveries: BTreeMap<_, _> = self
            .intake
            .states
            .known()
            .map(|id| (id, Delivery::Gone))
            .collect();
        let mut tenants: BTreeMap<TenantId, Vec<(String, Found)>> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (place, found) in self.places_of.found(&files) {
            let known = found.tenant.or_else(|| self.places.get(&place).copied());
            let Some(id) = known.or_else(|| rendered_secret::tenant_of(&place)) else {
                tracing::warn!(place, error = found.error(), "no tenant can be read here");
                continue;
            };
            places.insert(place.clone(), id);
            tenants.entry(id).or_default().push((place, found));
        }
        self.places = places;
        self.counted.retain(|id, _| tenants.contains_key(id));
        let several = tenants.iter().filter(|(_, places)| places.len() > 1);
        let owners = self.intake.owners(several.map(|(id, _)| *id)).await;
        for (id, places) in tenants {
            if let Some((place, found)) = chosen(id, places, owners.get(&id)) {
                self.notice_replaced(id, &place, &found);
                self.counted.insert(id, place);
                deliveries.insert(id, found.delivery);
            }
        }
        self.intake.take(deliveries).await;
        !self.intake.is_incomplete()
    }
}

impl DirectoryReader {
    /// Ends a tenant whose place is gone, even if another tenant with the same
    /// id is in another place (D36). If something else has taken its place,
    /// that is refused, and the tenant keeps running.
    fn notice_replaced(&mut self, id: TenantId, place: &str, found: &Found) {
        let is_elsewhere = self.counted.get(&id).is_some_and(|before| before != place);
        let running = self.intake.states.running(id);
        let is_anothers = found
            .source()
            .is_some_and(|source| running.is_some_and(|running| running.source != *source));
        if is_elsewhere && is_anothers {
            self.intake.states.remove(id);
        }
    }
}

/// Chooses between several places with the same tenant id: the owner's place is
/// used, so that a copy of the id cannot keep the owner from being served
/// (D36).
fn chosen(
    id: TenantId,
    mut places: Vec<(String, Found)>,
    owner: Option<&NamespacedName>,
) -> Option<(String, Found)> {
    let is_owners = |(_, found): &(String, Found)| owner.is_some() && found.source() == owner;
    let position = places.iter().position(is_owners).unwrap_or_default();
    if position >= places.len() {
        return None;
    }
    let (place, found) = places.swap_remove(position);
    for (other, _) in places {
        tracing::warn!(place = other, other = %place, tenant.id = %id, "another place has this tenant too; this one is ignored");
    }
    Some((place, found))
}

/// The contents of one place.
struct Found {
    /// Known as soon as the document names it, even if the rest is invalid.
    tenant: Option<TenantId>,
    delivery: Delivery,
}

impl Found {
    fn of(
        tenant: Option<TenantId>,
        revision: String,
        read: Result<RenderedTenant, Faults>,
    ) -> Self {
        match read {
            Ok(rendered) => Self {
                tenant: Some(rendered.config.tenant_id),
                delivery: Delivery::Rendered(Box::new(rendered)),
            },
            Err(faults) => Self {
                tenant,
                delivery: Delivery::Refused {
                    revision,
                    error: faults.to_string(),
                },
            },
        }
    }

    fn source(&self) -> Option<&NamespacedName> {
        match &self.delivery {
            Delivery::Rendered(tenant) => Some(&tenant.source),
            Delivery::Refused { .. } | Delivery::Gone => None,
        }
    }

    fn error(&self) -> Option<&str> {
        match &self.delivery {
            Delivery::Refused { error, .. } => Some(error),
            Delivery::Rendered(_) | Delivery::Gone => None,
        }
    }
}

/// Reads the places of a directory.
struct Places {
    settings: RenderSettings,
    revisions: Revisions,
}

impl Places {
    fn new(settings: RenderSettings) -> Self {
        Self {
            settings,
            revisions: Revisions::new(),
        }
    }

    fn found(&self, files: &Files) -> BTreeMap<String, Found> {
        let mut found = BTreeMap::new();
        for name in files.texts.keys().chain(files.unreadable.keys()) {
            match name.split_once(SEPARATOR) {
                Some((place, _)) if !found.contains_key(place) => {
                    found.insert(place.to_owned(), self.mounted(place, files));
                }
                Some(_) => {}
                None => {
                    found.insert(name.clone(), self.document(name, files));
                }
            }
        }
        found
    }

    /// A subdirectory with the two keys of a Secret. A mounted Secret has no
    /// annotations, so the revision is computed, and the document must name its
    /// source.
    fn mounted(&self, place: &str, files: &Files) -> Found {
        let name = |key| format!("{place}{SEPARATOR}{key}");
        let texts = [TENANT_KEY, CREDENTIALS_KEY].map(|key| text(files, &name(key)));
        let refused = || {
            let texts = texts.iter().filter_map(|text| text.as_ref().ok().copied());
            self.revisions.of_refused(texts)
        };
        let (tenant, credentials) = match texts.clone() {
            [Ok(tenant), Ok(credentials)] => (tenant, credentials),
            [tenant, credentials] => {
                let id = tenant.as_ref().ok().and_then(|text| id_of(text));
                let mut faults = Faults::default();
                for (key, text) in [(TENANT_KEY, tenant), (CREDENTIALS_KEY, credentials)] {
                    if let Err(error) = text {
                        faults.add(key, error);
                    }
                }
                return Found::of(id, refused(), Err(faults));
            }
        };
        let version = TenantConfig::from_json(tenant)
            .ok()
            .and_then(|config| Some((config.policy_version?, config.content_hash)));
        let credentials_read = serde_json::from_str(credentials).ok();
        let revision = match (version, credentials_read) {
            (Some((version, hash)), Some(credentials)) => {
                self.revisions.of(version, &hash, &credentials)
            }
            _ => refused(),
        };
        let keys = Keys {
            tenant,
            credentials,
        };
        let read = RenderedTenant::parse(&revision, None, keys, &self.settings);
        Found::of(id_of(tenant), revision, read)
    }

    /// A file with a whole Secret.
    fn document(&self, name: &str, files: &Files) -> Found {
        let text = match text(files, name) {
            Ok(text) => text,
            Err(error) => {
                let faults = minichat_config::Fault {
                    path: String::new(),
                    message: error,
                };
                return Found::of(None, "unknown".to_owned(), Err(faults.into()));
            }
        };
        let secret = yaml::document(text)
            .map_err(Faults::from)
            .and_then(|value| {
                serde_json::from_value::<Secret>(value).map_err(|_| {
                    // The error may quote the Secret.
                    Faults::from(minichat_config::Fault {
                        path: String::new(),
                        message:
                            "must be a rendered Secret, as `kubectl get secret -o yaml` shows it"
                                .to_owned(),
                    })
                })
            });
        match secret {
            Ok(secret) => {
                let id = secret.metadata.name.as_deref();
                let revision = rendered_secret::revision_of(&secret).unwrap_or("unknown");
                let read = RenderedTenant::from_secret(&secret, &self.settings);
                Found::of(
                    id.and_then(rendered_secret::tenant_of),
                    revision.to_owned(),
                    read,
                )
            }
            Err(faults) => {
                let revision = self.revisions.of_refused(std::iter::once(text));
                Found::of(None, revision, Err(faults))
            }
        }
    }
}

/// The text of the file called `name`, or why it is missing.
fn text<'a>(files: &'a Files, name: &str) -> Result<&'a str, String> {
    match (files.unreadable.get(name), files.texts.get(name)) {
        (Some(error), _) => Err(error.clone()),
        (None, Some(text)) => Ok(text),
        (None, None) => Err("is missing".to_owned()),
    }
}

/// The tenant that a document names, even if the rest is invalid.
fn id_of(document: &str) -> Option<TenantId> {
    let value: serde_json::Value = serde_json::from_str(document).ok()?;
    value.get("tenant_id")?.as_str()?.parse().ok()
}

/// The name, unless it begins with a dot, as do the directories in which the
/// kubelet keeps versions of a mounted Secret.
fn visible_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    (!name.starts_with('.')).then_some(name)
}

fn is_key(name: &str) -> bool {
    name == TENANT_KEY || name == CREDENTIALS_KEY
}

fn is_document(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
