//! Where a provider stores the files of chats (PLAT-112, CONT-30).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::{ProviderDocument, StorageDocument};
use super::provider::{Provider, ProviderKind};
use crate::canonical;
use crate::fault::Faults;

/// Maximum length of a label in bytes: that of the column that stores it.
const MAX_LABEL_BYTES: usize = 32;

/// The storage for files at a provider: its Files API and its vector stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Under which paths it answers.
    pub api: StorageApi,
    /// The label that rows of files carry, unique in the tenant, at most 32
    /// bytes. Deletions find the provider by it (CONT-167).
    pub backend: String,
    /// Whether a search of files may be narrowed (CONT-33).
    pub supports_file_search_filters: bool,
}

/// The paths of a storage (CONT-59).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageApi {
    /// `/v1/{path}`.
    OpenAi,
    /// `/openai/{path}?api-version={api_version}`.
    Azure {
        /// Such as `2025-04-01-preview`: letters, digits, `.`, `_` and `-`.
        api_version: String,
    },
}

/// `storage.kind` of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageKind {
    /// The paths of `OpenAI`.
    #[serde(rename = "openai")]
    OpenAi,
    /// The paths of Azure.
    Azure,
    /// The provider stores no files.
    None,
}

impl ProviderKind {
    /// The storage of a provider whose configuration names none. vLLM has no
    /// Files API.
    pub const fn default_storage(self) -> StorageKind {
        match self {
            Self::OpenAiResponses | Self::OpenAiChatCompletions => StorageKind::OpenAi,
            Self::VllmResponses => StorageKind::None,
        }
    }
}

impl StorageApi {
    /// The path and query of the call `path`, such as `files`.
    pub fn path(&self, path: &str) -> String {
        match self {
            Self::OpenAi => format!("/v1/{path}"),
            Self::Azure { api_version } => format!("/openai/{path}?api-version={api_version}"),
        }
    }
}

/// Checks the `storage` of the provider `id`.
pub(super) fn storage(
    id: &str,
    document: &ProviderDocument,
    faults: &mut Faults,
) -> Option<Storage> {
    let path = |key: &str| format!("providers.{id}.storage{key}");
    let StorageDocument {
        kind,
        api_version,
        backend,
        supports_file_search_filters,
    } = document.storage.clone().unwrap_or_default();
    let kind = kind.unwrap_or(document.kind.default_storage());
    faults.require(
        kind == StorageKind::Azure || api_version.is_none(),
        path(".api_version"),
        "belongs to the kind `azure` only",
    );
    let api = match kind {
        StorageKind::None => return None,
        StorageKind::OpenAi => StorageApi::OpenAi,
        StorageKind::Azure => StorageApi::Azure {
            api_version: azure_version(api_version, path(".api_version"), faults),
        },
    };
    if let Some(label) = &backend {
        faults.require(
            is_label(label),
            path(".backend"),
            format!("must have 1 to {MAX_LABEL_BYTES} letters, digits, `.`, `_` or `-`"),
        );
    }
    Some(Storage {
        supports_file_search_filters: supports_file_search_filters
            .unwrap_or(api == StorageApi::OpenAi),
        api,
        backend: backend.unwrap_or_else(|| default_label(id)),
    })
}

fn azure_version(version: Option<String>, path: String, faults: &mut Faults) -> String {
    let version = version.unwrap_or_default();
    faults.require(
        is_label(&version),
        path,
        "the kind `azure` needs one such as `2025-04-01-preview`",
    );
    version
}

fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The provider's id. One that is longer than a label is cut, and digits of its
/// hash keep it apart from others with the same beginning.
fn default_label(id: &str) -> String {
    if id.len() <= MAX_LABEL_BYTES {
        return id.to_owned();
    }
    let hash = canonical::hash(&id.into());
    let digits = &hash[hash.len() - 8..];
    let start = &id[..id.floor_char_boundary(MAX_LABEL_BYTES - 9)];
    format!("{start}-{digits}")
}

/// Refuses labels that lead to more than one provider (CONT-167).
pub(super) fn check_labels(providers: &BTreeMap<String, Provider>, faults: &mut Faults) {
    let label = |provider: &Provider| provider.storage.as_ref().map(|it| it.backend.clone());
    for (id, provider) in providers {
        let Some(own) = label(provider) else {
            continue;
        };
        let rival = providers.iter().find(|(other, provider)| {
            *other != id && (**other == own || label(provider).as_ref() == Some(&own))
        });
        if let Some((rival, _)) = rival {
            faults.add(
                format!("providers.{id}.storage.backend"),
                format!("`{own}` also leads to the provider `{rival}`"),
            );
        }
    }
}

/// The provider that stores the files labelled `label`: the one whose storage
/// has this label, else the one with this id (CONT-167).
pub(super) fn provider_of<'p>(
    providers: &'p BTreeMap<String, Provider>,
    label: &str,
) -> Option<&'p Provider> {
    let has_label = |provider: &&Provider| {
        let storage = provider.storage.as_ref();
        storage.is_some_and(|storage| storage.backend == label)
    };
    let of_id = || providers.get(label).filter(|it| it.storage.is_some());
    providers.values().find(has_label).or_else(of_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONT-59
    #[test]
    fn paths_of_azure_carry_the_version() {
        let azure = StorageApi::Azure {
            api_version: "2025-04-01-preview".to_owned(),
        };
        let version = "?api-version=2025-04-01-preview";
        assert_eq!(azure.path("files"), format!("/openai/files{version}"));
        assert_eq!(StorageApi::OpenAi.path("files/f"), "/v1/files/f");
    }

    #[test]
    fn labels_of_long_ids_fit_the_column_and_differ() {
        assert_eq!(default_label("openai"), "openai");
        let long = "provider-of-the-department-of-research";
        let labels = ["-a", "-b"].map(|end| default_label(&format!("{long}{end}")));
        assert_ne!(labels[0], labels[1]);
        for label in labels {
            assert!(label.len() <= MAX_LABEL_BYTES && label.starts_with("provider-of-the-dep"));
        }
        assert!(default_label(&"ü".repeat(40)).len() <= MAX_LABEL_BYTES);
    }
}
