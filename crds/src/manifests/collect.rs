//! Documents by kind and name, and the tenants they make.

use std::collections::{BTreeMap, BTreeSet};

use minichat_config::{Fault, Faults, Secret};
use minichat_core::{NamespacedName, TenantId};
use serde_json::{Value, json};

use super::{Concern, Manifests, Problem, Source, TenantManifest, secret};
use crate::render::{RenderSettings, Secrets, render, tenant_id};
use crate::{ChatQuota, ChatTenant, GROUP, admit};

/// Namespace and name.
type Name = (String, String);

/// One document that is told apart, and what came of it.
struct Entry<T> {
    source: Source,
    object: Result<T, Faults>,
    /// Other documents with the same kind and name.
    duplicates: Vec<Source>,
}

type Entries<T> = BTreeMap<Name, Entry<T>>;

#[derive(Default)]
pub(super) struct Collected {
    tenants: Entries<ChatTenant>,
    /// Ids of all tenants, also of those that are refused.
    ids: BTreeMap<Name, TenantId>,
    quotas: Entries<ChatQuota>,
    /// The tenant that each quota names, also of those that are refused.
    quota_tenants: BTreeMap<Name, Name>,
    secrets: Entries<BTreeMap<String, Secret>>,
    problems: Vec<Problem>,
}

impl Collected {
    pub(super) fn problem(&mut self, source: Source, fault: Fault, concerns: Concern) {
        let Fault { path, message } = fault;
        self.problems.push(Problem {
            source,
            path,
            message,
            concerns,
        });
    }

    /// Files `object` under its kind and name.
    pub(super) fn add(&mut self, source: Source, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let group = text("/apiVersion")
            .and_then(|v| v.split('/').next())
            .unwrap_or_default();
        let kind = text("/kind").unwrap_or_default().to_owned();
        let known = match kind.as_str() {
            "ChatTenant" | "ChatQuota" => group == GROUP,
            "Secret" => group == "v1",
            _ => false,
        };
        if !known {
            let message = format!(
                "is a {kind:?} of {group:?}; only ChatTenant and ChatQuota of {GROUP}/v1alpha1 and Secret of v1 are read here"
            );
            return self.problem(
                source,
                Fault {
                    path: "kind".to_owned(),
                    message,
                },
                Concern::Unknown,
            );
        }
        let Some(name) = text("/metadata/name").filter(|name| admit::is_subdomain(name)) else {
            let message =
                "is required and must be lower-case letters, digits, - and ., such as acme";
            let fault = Fault {
                path: "metadata.name".to_owned(),
                message: message.to_owned(),
            };
            return self.problem(source, fault, Concern::Unknown);
        };
        let name = (
            text("/metadata/namespace").unwrap_or("default").to_owned(),
            name.to_owned(),
        );
        match kind.as_str() {
            "ChatTenant" => {
                self.ids
                    .entry(name.clone())
                    .or_insert_with(|| claimed_id(&name, object));
                file(
                    &mut self.tenants,
                    name,
                    source,
                    admit::chat_tenant(object, None),
                );
            }
            "ChatQuota" => {
                if let Some(tenant) = text("/spec/tenantRef/name") {
                    let tenant = (name.0.clone(), tenant.to_owned());
                    self.quota_tenants.entry(name.clone()).or_insert(tenant);
                }
                file(
                    &mut self.quotas,
                    name,
                    source,
                    admit::chat_quota(object, None),
                );
            }
            _ => file(&mut self.secrets, name, source, secret::values(object)),
        }
    }

    /// Renders every tenant none of whose documents has a problem.
    pub(super) fn render(mut self, settings: &RenderSettings) -> Manifests {
        self.report_tenants();
        self.report_quotas();
        self.report_secrets();
        self.report_shared_ids();
        let mut tenants = BTreeMap::new();
        for (name, id) in &self.ids {
            let refused = self
                .problems
                .iter()
                .any(|problem| problem.concerns == Concern::Tenant(*id));
            if let (false, Some(entry)) = (refused, self.tenants.get(name))
                && let Ok(tenant) = &entry.object
            {
                match self.tenant(name, tenant, entry, settings) {
                    Ok(manifest) => {
                        tenants.insert(*id, manifest);
                    }
                    Err(faults) => push(
                        &mut self.problems,
                        &entry.source,
                        &faults,
                        Concern::Tenant(*id),
                    ),
                }
            }
        }
        self.problems.sort_by(|a, b| a.source.cmp(&b.source));
        Manifests {
            tenants,
            problems: self.problems,
        }
    }

    fn tenant(
        &self,
        name: &Name,
        tenant: &ChatTenant,
        entry: &Entry<ChatTenant>,
        settings: &RenderSettings,
    ) -> Result<TenantManifest, Faults> {
        let mut files = BTreeSet::from([entry.source.file.clone()]);
        let mut quotas = Vec::new();
        for (quota_name, quota) in &self.quotas {
            if self.quota_tenants.get(quota_name) == Some(name)
                && let Ok(object) = &quota.object
            {
                files.insert(quota.source.file.clone());
                quotas.push(object);
            }
        }
        let mut secrets = Secrets::new();
        for ((namespace, secret_name), secret) in &self.secrets {
            if *namespace == name.0
                && let Ok(values) = &secret.object
            {
                if refers_to(tenant, secret_name) {
                    files.insert(secret.source.file.clone());
                }
                let values = values.iter();
                let values = values.map(|(key, value)| (key.clone(), value.clone().into()));
                secrets.insert(secret_name.clone(), values.collect());
            }
        }
        let rendered = render(tenant, &quotas, &secrets, settings)?;
        // Admission has checked both names.
        let full = NamespacedName::new(&name.0, &name.1).map_err(|error| Fault {
            path: "metadata".to_owned(),
            message: error.to_string(),
        })?;
        Ok(TenantManifest {
            name: full,
            files,
            rendered,
        })
    }

    fn report_tenants(&mut self) {
        for (name, entry) in &self.tenants {
            let concerns = self
                .ids
                .get(name)
                .map_or(Concern::Unknown, |id| Concern::Tenant(*id));
            report(&mut self.problems, "ChatTenant", name, entry, concerns);
        }
    }

    fn report_quotas(&mut self) {
        for (name, entry) in &self.quotas {
            let tenant = self.quota_tenants.get(name);
            let id = tenant.and_then(|tenant| self.ids.get(tenant));
            let concerns = match (tenant, id) {
                (_, Some(id)) => Concern::Tenant(*id),
                (Some(_), None) => Concern::Nobody,
                (None, _) => Concern::Unknown,
            };
            report(&mut self.problems, "ChatQuota", name, entry, concerns);
            if let (Some((_, tenant)), None) = (tenant, id) {
                let mut faults = Faults::default();
                faults.add(
                    "spec.tenantRef.name",
                    format!("there is no ChatTenant {tenant} in the namespace {}; write the name of one", name.0),
                );
                push(&mut self.problems, &entry.source, &faults, Concern::Nobody);
            }
        }
    }

    /// A broken Secret concerns the tenants that refer to it.
    fn report_secrets(&mut self) {
        for (name, entry) in &self.secrets {
            let users: Vec<_> = self
                .tenants
                .iter()
                .filter(|((namespace, _), _)| *namespace == name.0)
                .filter(|(_, tenant)| tenant.object.as_ref().is_ok_and(|t| refers_to(t, &name.1)))
                .filter_map(|(tenant, _)| self.ids.get(tenant))
                .collect();
            if users.is_empty() {
                report(&mut self.problems, "Secret", name, entry, Concern::Nobody);
            }
            for id in users {
                report(
                    &mut self.problems,
                    "Secret",
                    name,
                    entry,
                    Concern::Tenant(*id),
                );
            }
        }
    }

    /// No file is older than another, so none of several tenants with one id is
    /// preferred: what runs goes on.
    fn report_shared_ids(&mut self) {
        let mut by_id: BTreeMap<TenantId, Vec<&Name>> = BTreeMap::new();
        for (name, id) in &self.ids {
            by_id.entry(*id).or_default().push(name);
        }
        for (id, names) in by_id.into_iter().filter(|(_, names)| names.len() > 1) {
            for name in &names {
                let others: Vec<_> = names
                    .iter()
                    .filter(|other| other != &name)
                    .map(|(namespace, name)| format!("{namespace}/{name}"))
                    .collect();
                let mut faults = Faults::default();
                faults.add(
                    "spec.tenantId",
                    format!(
                        "is also the id of ChatTenant {}; give each its own",
                        others.join(", ")
                    ),
                );
                if let Some(entry) = self.tenants.get(*name) {
                    push(
                        &mut self.problems,
                        &entry.source,
                        &faults,
                        Concern::Tenant(id),
                    );
                }
            }
        }
    }
}

fn file<T>(entries: &mut Entries<T>, name: Name, source: Source, object: Result<T, Faults>) {
    match entries.get_mut(&name) {
        Some(first) => first.duplicates.push(source),
        None => {
            entries.insert(
                name,
                Entry {
                    source,
                    object,
                    duplicates: Vec::new(),
                },
            );
        }
    }
}

/// The faults of an entry and of its duplicates.
fn report<T>(
    problems: &mut Vec<Problem>,
    kind: &str,
    (namespace, name): &Name,
    entry: &Entry<T>,
    concerns: Concern,
) {
    if let Err(faults) = &entry.object {
        push(problems, &entry.source, faults, concerns);
    }
    for duplicate in &entry.duplicates {
        let mut faults = Faults::default();
        faults.add(
            "metadata.name",
            format!(
                "{kind} {namespace}/{name} is also in {}; delete or rename one of the two",
                entry.source
            ),
        );
        push(problems, duplicate, &faults, concerns);
    }
}

fn push(problems: &mut Vec<Problem>, source: &Source, faults: &Faults, concerns: Concern) {
    problems.extend(faults.0.iter().map(|fault| Problem {
        source: source.clone(),
        path: fault.path.clone(),
        message: fault.message.clone(),
        concerns,
    }));
}

fn refers_to(tenant: &ChatTenant, secret: &str) -> bool {
    let auths = tenant
        .spec
        .providers
        .iter()
        .filter_map(|provider| provider.auth.as_ref());
    auths
        .into_iter()
        .any(|auth| auth.secret_key_ref.name == secret)
}

/// The id of a tenant whose document may be invalid elsewhere.
fn claimed_id((namespace, name): &Name, object: &Value) -> TenantId {
    let mut tenant = json!({
        "apiVersion": "", "kind": "", "metadata": {"name": name, "namespace": namespace},
        "spec": {"providers": [], "models": []}
    });
    if let Some(id) = object.pointer("/spec/tenantId") {
        tenant["spec"]["tenantId"] = id.clone();
    }
    let tenant: Option<ChatTenant> = serde_json::from_value(tenant).ok();
    tenant.map_or_else(
        || crate::render::derived(&format!("{namespace}/{name}")),
        |tenant| tenant_id(&tenant),
    )
}
