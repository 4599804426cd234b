//! Tenants from a directory of YAML files (K8S-4): every file may hold several
//! documents of the kinds `ChatTenant`, `ChatQuota` and `Secret`.
//!
//! A problem names its file, document and field and says what to write. It
//! *concerns* the tenant whose configuration the document is part of, and only
//! that tenant is refused; a document that cannot be told apart (no YAML, no
//! known kind, no name) may be part of any tenant of its file.

mod collect;
mod secret;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;

use minichat_config::{Fault, yaml};
use minichat_core::{NamespacedName, TenantId};

use crate::render::{RenderSettings, Rendered};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// This tenant.
    Tenant(TenantId),
    /// No tenant, such as a quota of a tenant that is not there.
    Nobody,
    /// Perhaps a tenant that once stood in the same file.
    Unknown,
}

/// What the files say.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Tenants without a problem.
    pub tenants: BTreeMap<TenantId, TenantManifest>,
    /// In the order of the documents.
    pub problems: Vec<Problem>,
}

/// One tenant without a problem.
#[derive(Debug)]
pub struct TenantManifest {
    /// `namespace/name` of the `ChatTenant`.
    pub name: NamespacedName,
    /// Files that its documents stand in.
    pub files: BTreeSet<String>,
    /// What to serve.
    pub rendered: Rendered,
}

/// The texts of a directory's manifests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Files {
    /// By file name.
    pub texts: BTreeMap<String, String>,
    /// Files that could not be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
}

impl Files {
    /// Adds a text.
    pub fn insert(&mut self, name: &str, text: String) {
        self.texts.insert(name.to_owned(), text);
    }

    /// Reads the files of `directory` that end in `.yaml`, `.yml` or `.json`;
    /// neither hidden ones nor subdirectories.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let extension = path.extension().and_then(|extension| extension.to_str());
            let is_manifest = matches!(extension, Some("yaml" | "yml" | "json"));
            if !is_manifest || name.starts_with('.') || path.is_dir() {
                continue;
            }
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    files.texts.insert(name.to_owned(), text);
                }
                // Removed since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    files.unreadable.insert(name.to_owned(), error.to_string());
                }
            }
        }
        Ok(files)
    }
}

impl Manifests {
    /// Reads and renders the files of `directory`, see [`Files::read`].
    pub fn read(directory: &Path, settings: &RenderSettings) -> io::Result<Self> {
        Ok(Self::parse(&Files::read(directory)?, settings))
    }

    /// Renders the documents of `files`.
    pub fn parse(files: &Files, settings: &RenderSettings) -> Self {
        let mut collected = collect::Collected::default();
        for (file, error) in &files.unreadable {
            let source = Source {
                file: file.clone(),
                document: 1,
            };
            let fault = Fault {
                path: String::new(),
                message: format!("cannot be read: {error}"),
            };
            collected.problem(source, fault, Concern::Unknown);
        }
        for (file, text) in &files.texts {
            for document in yaml::documents(text) {
                let source = Source {
                    file: file.clone(),
                    document: document.number,
                };
                match document.value {
                    Ok(value) => collected.add(source, &value),
                    Err(fault) => collected.problem(source, fault, Concern::Unknown),
                }
            }
        }
        collected.render(settings)
    }

    /// Problems that keep `tenant` from being served or updated.
    pub fn problems_of(&self, tenant: TenantId) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .filter(move |problem| problem.concerns == Concern::Tenant(tenant))
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
