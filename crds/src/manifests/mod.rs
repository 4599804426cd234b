//! Tenants from a directory of YAML files (K8S-4): every file may hold several
//! documents of the kinds `ChatTenant`, `ChatQuota` and `Secret`.
//!
//! A problem names its file, document and field, and says what to write. It *concerns* the
//! tenant that the document belongs to, and only that tenant is refused. A document whose kind
//! or name cannot be read may belong to any tenant of its file, so it concerns all of them.

mod collect;
mod document;
mod renderer;
mod secret;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use minichat_core::{NamespacedName, TenantId};

use crate::render::{RenderSettings, Rendered};

pub use renderer::Renderer;

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Name of the file within the directory.
    pub file: String,
    /// Position in the file, 1 for the first document.
    pub document: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The document.
    pub source: Source,
    /// Path of the field; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// Who is refused because of it.
    pub concerns: Concern,
}

/// Who is refused because of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// This tenant.
    Tenant(NamespacedName),
    /// This tenant has an id that another one has too; it is refused unless the
    /// id is known to be its own (D36).
    SharedId(NamespacedName),
    /// No tenant, such as a quota of a tenant that is not there.
    Nobody,
    /// Perhaps a tenant that was in the same file before.
    Unknown,
}

/// What the files say.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Tenants without a problem, but perhaps with an id that others have too.
    pub tenants: BTreeMap<NamespacedName, Arc<TenantManifest>>,
    /// The id of every tenant, also of those that are refused.
    pub ids: BTreeMap<NamespacedName, TenantId>,
    /// Every tenant, in the order of the documents.
    pub order: Vec<NamespacedName>,
    /// In the order of the documents.
    pub problems: Vec<Problem>,
}

/// One tenant without a problem.
#[derive(Debug)]
pub struct TenantManifest {
    /// `namespace/name` of the `ChatTenant`.
    pub name: NamespacedName,
    /// The file of the `ChatTenant`.
    pub file: String,
    /// Files that its documents stand in.
    pub files: BTreeSet<String>,
    /// What to serve.
    pub rendered: Rendered,
}

/// The texts of a directory's manifests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Files {
    /// By file name.
    pub texts: BTreeMap<String, Arc<str>>,
    /// What is wrong with files as such: they cannot be read, or their text is
    /// one from before.
    pub unreadable: BTreeMap<String, String>,
}

impl Files {
    /// Adds a text.
    pub fn insert(&mut self, name: &str, text: impl Into<Arc<str>>) {
        self.texts.insert(name.to_owned(), text.into());
    }
}

impl Manifests {
    /// Renders the documents of `files`, once.
    pub fn parse(files: &Files, settings: &RenderSettings) -> Self {
        Renderer::new(settings.clone()).render(files)
    }

    /// Problems that keep `tenant` from being served or updated.
    pub fn problems_of(&self, tenant: &NamespacedName) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(
            move |problem| matches!(&problem.concerns, Concern::Tenant(name) if name == tenant),
        )
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}
