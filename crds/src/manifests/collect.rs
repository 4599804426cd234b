//! Collects documents by kind and name, and puts each tenant together from them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use minichat_config::{Fault, Faults};
use minichat_core::{NamespacedName, TenantId};

use super::document::{Content, Document};
use super::renderer::Made;
use super::{Concern, Manifests, Problem, Source, TenantManifest};
use crate::ChatTenant;
use crate::render::{RenderSettings, Secrets, render};

/// The documents with one kind and name.
struct Entry<'a> {
    first: &'a Arc<Document>,
    duplicates: Vec<&'a Arc<Document>>,
}

type Entries<'a> = BTreeMap<&'a NamespacedName, Entry<'a>>;

#[derive(Default)]
pub(super) struct Collected<'a> {
    tenants: Entries<'a>,
    quotas: Entries<'a>,
    secrets: Entries<'a>,
    problems: Vec<Problem>,
}

/// Who refers to what, so that nothing is searched for.
#[derive(Default)]
struct References<'a> {
    quotas: HashMap<&'a NamespacedName, Vec<&'a Arc<Document>>>,
    secrets: HashMap<&'a NamespacedName, Vec<&'a Arc<Document>>>,
    users: HashMap<&'a NamespacedName, Vec<&'a NamespacedName>>,
}

impl<'a> Collected<'a> {
    pub(super) fn unreadable(&mut self, file: &str, error: &str) {
        self.problems.push(Problem {
            source: Source {
                file: file.to_owned(),
                document: 1,
            },
            path: String::new(),
            message: error.to_owned(),
            concerns: Concern::Unknown,
        });
    }

    /// Files `document` under its kind and name.
    pub(super) fn add(&mut self, document: &'a Arc<Document>) {
        match &document.content {
            Content::Tenant { name, .. } => file(&mut self.tenants, name, document),
            Content::Quota { name, .. } => file(&mut self.quotas, name, document),
            Content::Secret { name, .. } => file(&mut self.secrets, name, document),
            Content::Unknown(Fault { path, message }) => self.problems.push(Problem {
                source: document.source.clone(),
                path: path.clone(),
                message: message.clone(),
                concerns: Concern::Unknown,
            }),
        }
    }

    /// Renders every tenant none of whose documents has a problem; those that
    /// were `made` from the same documents before are kept.
    pub(super) fn render(
        mut self,
        settings: &RenderSettings,
        made: &HashMap<NamespacedName, Made>,
    ) -> (Manifests, HashMap<NamespacedName, Made>) {
        let references = self.references();
        self.report(&references);
        let refused: HashSet<NamespacedName> = self
            .problems
            .iter()
            .filter_map(|problem| match &problem.concerns {
                Concern::Tenant(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let mut manifests = Manifests {
            order: self.order(),
            ..Manifests::default()
        };
        let mut now_made = HashMap::with_capacity(self.tenants.len());
        for (name, entry) in &self.tenants {
            let Content::Tenant { id, object, .. } = &entry.first.content else {
                continue;
            };
            manifests.ids.insert((*name).clone(), *id);
            let (false, Ok(tenant)) = (refused.contains(*name), object) else {
                continue;
            };
            let inputs = references.inputs(name, entry.first);
            let before = made
                .get(*name)
                .filter(|made| are_same(&made.inputs, &inputs));
            let manifest = before.map_or_else(
                || manifest(name, tenant, &inputs, settings).map(Arc::new),
                |made| made.manifest.clone(),
            );
            match &manifest {
                Ok(manifest) => {
                    let manifest = Arc::clone(manifest);
                    manifests.tenants.insert((*name).clone(), manifest);
                }
                Err(faults) => {
                    let concerns = Concern::Tenant((*name).clone());
                    push(&mut self.problems, &entry.first.source, faults, &concerns);
                }
            }
            now_made.insert((*name).clone(), Made { inputs, manifest });
        }
        self.problems.sort_by(|a, b| a.source.cmp(&b.source));
        manifests.problems = self.problems;
        (manifests, now_made)
    }

    /// The tenants in the order of the documents.
    fn order(&self) -> Vec<NamespacedName> {
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_by(|(_, a), (_, b)| a.first.source.cmp(&b.first.source));
        tenants
            .into_iter()
            .map(|(name, _)| (*name).clone())
            .collect()
    }

    fn references(&self) -> References<'a> {
        let mut references = References::default();
        for (name, entry) in &self.tenants {
            for secret in secrets_of(entry.first) {
                if let Some((secret, found)) = self.secrets.get_key_value(&secret) {
                    references.users.entry(*secret).or_default().push(*name);
                    let secrets = references.secrets.entry(*name).or_default();
                    secrets.push(found.first);
                }
            }
        }
        for entry in self.quotas.values() {
            if let Content::Quota {
                tenant: Some(tenant),
                object: Ok(_),
                ..
            } = &entry.first.content
            {
                let quotas = references.quotas.entry(tenant).or_default();
                quotas.push(entry.first);
            }
        }
        references
    }

    fn report(&mut self, references: &References<'a>) {
        let problems = &mut self.problems;
        for (name, entry) in &self.tenants {
            let concerns = Concern::Tenant((*name).clone());
            report(problems, "ChatTenant", name, entry, &concerns);
        }
        for (name, entry) in &self.quotas {
            report_quota(problems, name, entry, &self.tenants);
        }
        // A broken Secret concerns the tenants that refer to it.
        for (name, entry) in &self.secrets {
            let users = references.users.get(*name);
            if users.is_none() {
                report(problems, "Secret", name, entry, &Concern::Nobody);
            }
            for user in users.into_iter().flatten() {
                let concerns = Concern::Tenant((*user).clone());
                report(problems, "Secret", name, entry, &concerns);
            }
        }
        report_shared_ids(problems, &self.tenants);
    }
}

impl<'a> References<'a> {
    /// The documents that make the tenant `name`.
    fn inputs(&self, name: &NamespacedName, tenant: &'a Arc<Document>) -> Vec<Arc<Document>> {
        let others = [self.quotas.get(name), self.secrets.get(name)];
        let others = others.into_iter().flatten().flatten().copied();
        std::iter::once(tenant).chain(others).cloned().collect()
    }
}

fn are_same(before: &[Arc<Document>], now: &[Arc<Document>]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn manifest(
    name: &NamespacedName,
    tenant: &ChatTenant,
    inputs: &[Arc<Document>],
    settings: &RenderSettings,
) -> Result<TenantManifest, Faults> {
    let (mut quotas, mut secrets) = (Vec::new(), Secrets::new());
    for input in inputs {
        match &input.content {
            Content::Quota {
                object: Ok(quota), ..
            } => quotas.push(&**quota),
            Content::Secret {
                name,
                values: Ok(values),
            } => {
                let (_, name) = parts(name);
                let values = values.iter();
                let values = values.map(|(key, value)| (key.clone(), value.clone().into()));
                secrets.insert(name.to_owned(), values.collect());
            }
            _ => {}
        }
    }
    Ok(TenantManifest {
        name: name.clone(),
        file: inputs
            .first()
            .map(|first| first.source.file.clone())
            .unwrap_or_default(),
        files: inputs
            .iter()
            .map(|input| input.source.file.clone())
            .collect(),
        rendered: render(tenant, &quotas, &secrets, settings)?,
    })
}

/// Namespace and name.
fn parts(name: &NamespacedName) -> (&str, &str) {
    name.as_str().split_once('/').unwrap_or_default()
}

/// The Secrets that a tenant refers to.
fn secrets_of(document: &Document) -> BTreeSet<NamespacedName> {
    let Content::Tenant {
        name,
        object: Ok(tenant),
        ..
    } = &document.content
    else {
        return BTreeSet::new();
    };
    let (namespace, _) = parts(name);
    let references = tenant.spec.credential_refs().into_iter();
    references
        .filter_map(|one| NamespacedName::new(namespace, &one.to.name).ok())
        .collect()
}

fn file<'a>(entries: &mut Entries<'a>, name: &'a NamespacedName, document: &'a Arc<Document>) {
    if let Some(entry) = entries.get_mut(name) {
        entry.duplicates.push(document);
        return;
    }
    let entry = Entry {
        first: document,
        duplicates: Vec::new(),
    };
    entries.insert(name, entry);
}

fn report_quota(
    problems: &mut Vec<Problem>,
    name: &NamespacedName,
    entry: &Entry<'_>,
    tenants: &Entries<'_>,
) {
    let Content::Quota { tenant, .. } = &entry.first.content else {
        return;
    };
    let concerns = match tenant {
        Some(tenant) if tenants.contains_key(tenant) => Concern::Tenant(tenant.clone()),
        Some(_) => Concern::Nobody,
        None => Concern::Unknown,
    };
    report(problems, "ChatQuota", name, entry, &concerns);
    if let (Some(tenant), Concern::Nobody) = (tenant, &concerns) {
        let (namespace, tenant) = parts(tenant);
        let mut faults = Faults::default();
        faults.add(
            "spec.tenantRef.name",
            format!(
                "there is no ChatTenant {tenant} in the namespace {namespace}; write the name of one"
            ),
        );
        push(problems, &entry.first.source, &faults, &concerns);
    }
}

/// No file is older than another: of several tenants with one id the one is
/// served whose id it is known to be, else none of them.
fn report_shared_ids(problems: &mut Vec<Problem>, tenants: &Entries<'_>) {
    let mut by_id: BTreeMap<TenantId, Vec<&NamespacedName>> = BTreeMap::new();
    for (name, entry) in tenants {
        if let Content::Tenant { id, .. } = &entry.first.content {
            by_id.entry(*id).or_default().push(name);
        }
    }
    for names in by_id.into_values().filter(|names| names.len() > 1) {
        // Enough to find them by; all of all would be quadratic.
        let shown = |name: &&NamespacedName| -> Vec<String> {
            let others = names.iter().filter(|other| other != &name);
            others.take(3).map(ToString::to_string).collect()
        };
        for name in &names {
            let mut faults = Faults::default();
            let others = shown(name).join(", ");
            faults.add(
                "spec.tenantId",
                format!("is also the id of ChatTenant {others}; give each its own"),
            );
            if let Some(entry) = tenants.get(*name) {
                let concerns = Concern::SharedId((*name).clone());
                push(problems, &entry.first.source, &faults, &concerns);
            }
        }
    }
}

/// The faults of an entry and of its duplicates.
fn report(
    problems: &mut Vec<Problem>,
    kind: &str,
    name: &NamespacedName,
    entry: &Entry<'_>,
    concerns: &Concern,
) {
    let faults = match &entry.first.content {
        Content::Tenant { object, .. } => object.as_ref().err(),
        Content::Quota { object, .. } => object.as_ref().err(),
        Content::Secret { values, .. } => values.as_ref().err(),
        Content::Unknown(_) => None,
    };
    if let Some(faults) = faults {
        push(problems, &entry.first.source, faults, concerns);
    }
    for duplicate in &entry.duplicates {
        let mut faults = Faults::default();
        faults.add(
            "metadata.name",
            format!(
                "{kind} {name} is also in {}; delete or rename one of the two",
                entry.first.source
            ),
        );
        push(problems, &duplicate.source, &faults, concerns);
    }
}

fn push(problems: &mut Vec<Problem>, source: &Source, faults: &Faults, concerns: &Concern) {
    problems.extend(faults.0.iter().map(|fault| Problem {
        source: source.clone(),
        path: fault.path.clone(),
        message: fault.message.clone(),
        concerns: concerns.clone(),
    }));
}
