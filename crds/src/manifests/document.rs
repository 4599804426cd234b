//! Parses one file into documents, each of one kind and name, valid or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minichat_config::{Fault, Faults, Secret, yaml};
use minichat_core::{NamespacedName, TenantId};
use serde_json::Value;

use super::{Source, secret};
use crate::render::derived_id;
use crate::{ChatQuota, ChatTenant, GROUP, validation};

/// A file's documents.
pub(super) struct ParsedFile {
    pub(super) text: Arc<str>,
    pub(super) documents: Vec<Arc<Document>>,
    /// Kind and name of every document; `None` when one cannot be told apart.
    pub(super) objects: Option<Arc<BTreeSet<String>>>,
}

/// One document.
pub(super) struct Document {
    pub(super) source: Source,
    pub(super) content: Content,
}

/// What a document is.
pub(super) enum Content {
    Tenant {
        name: NamespacedName,
        id: TenantId,
        object: Result<Box<ChatTenant>, Faults>,
    },
    Quota {
        name: NamespacedName,
        /// The tenant that it names, as far as it can be read.
        tenant: Option<NamespacedName>,
        object: Result<Box<ChatQuota>, Faults>,
    },
    Secret {
        name: NamespacedName,
        values: Result<BTreeMap<String, Secret>, Faults>,
    },
    /// It cannot be told apart.
    Unknown(Fault),
}

impl ParsedFile {
    pub(super) fn parse(file: &str, text: &Arc<str>) -> Self {
        let documents: Vec<_> = yaml::documents(text)
            .into_iter()
            .map(|document| {
                let source = Source {
                    file: file.to_owned(),
                    document: document.number,
                };
                let content = match document.value {
                    Ok(value) => Content::of(&value),
                    Err(fault) => Content::Unknown(fault),
                };
                Arc::new(Document { source, content })
            })
            .collect();
        let objects: Option<BTreeSet<_>> = documents
            .iter()
            .map(|document| document.content.object())
            .collect();
        Self {
            text: Arc::clone(text),
            documents,
            objects: objects.map(Arc::new),
        }
    }
}

impl Content {
    fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let group = text("/apiVersion")
            .and_then(|v| v.split('/').next())
            .unwrap_or_default();
        let kind = text("/kind").unwrap_or_default();
        let known = match kind {
            "ChatTenant" | "ChatQuota" => group == GROUP,
            "Secret" => group == "v1",
            _ => false,
        };
        if !known {
            return Self::Unknown(Fault {
                path: "kind".to_owned(),
                message: format!(
                    "is a {kind:?} of {group:?}; only ChatTenant and ChatQuota of {GROUP}/v1alpha1 and Secret of v1 are read here"
                ),
            });
        }
        let name = match name_of(object) {
            Ok(name) => name,
            Err(fault) => return Self::Unknown(fault),
        };
        match kind {
            "ChatTenant" => Self::Tenant {
                id: claimed_id(&name, object),
                name,
                object: validation::chat_tenant(object, None).map(Box::new),
            },
            "ChatQuota" => Self::Quota {
                tenant: text("/spec/tenantRef/name")
                    .and_then(|tenant| NamespacedName::new(namespace_of(object), tenant).ok()),
                name,
                object: validation::chat_quota(object, None).map(Box::new),
            },
            _ => Self::Secret {
                name,
                values: secret::values(object),
            },
        }
    }

    /// Kind and name.
    fn object(&self) -> Option<String> {
        match self {
            Self::Tenant { name, .. } => Some(format!("ChatTenant {name}")),
            Self::Quota { name, .. } => Some(format!("ChatQuota {name}")),
            Self::Secret { name, .. } => Some(format!("Secret {name}")),
            Self::Unknown(_) => None,
        }
    }
}

fn namespace_of(object: &Value) -> &str {
    let namespace = object.pointer("/metadata/namespace");
    namespace.and_then(Value::as_str).unwrap_or("default")
}

fn name_of(object: &Value) -> Result<NamespacedName, Fault> {
    let fault = |path: &str, message: &str| Fault {
        path: path.to_owned(),
        message: message.to_owned(),
    };
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.filter(|name| validation::is_subdomain(name));
    let name = name.ok_or_else(|| {
        fault(
            "metadata.name",
            "is required and must be lower-case letters, digits, - and ., such as acme",
        )
    })?;
    NamespacedName::new(namespace_of(object), name).map_err(|_| {
        fault(
            "metadata.namespace",
            "must be lower-case letters, digits and -, at most 63",
        )
    })
}

/// The id of a tenant whose document may be invalid elsewhere.
fn claimed_id(name: &NamespacedName, object: &Value) -> TenantId {
    let asked = object.pointer("/spec/tenantId").and_then(Value::as_str);
    let asked = asked.and_then(|id| id.parse().ok());
    asked.unwrap_or_else(|| derived_id(name))
}
