//! Renders a directory again after each change, and only the changed parts of it: a file is
//! parsed when its text differs, and a tenant is rendered when one of its documents differs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use minichat_config::Faults;
use minichat_core::NamespacedName;

use super::collect::Collected;
use super::document::{Document, ParsedFile};
use super::{Files, Manifests, TenantManifest};
use crate::render::RenderSettings;

/// Files below which one thread parses them all.
const FEW_FILES: usize = 64;

/// Keeps what it has made of the files before.
#[derive(Default)]
pub struct Renderer {
    settings: RenderSettings,
    files: BTreeMap<String, Arc<ParsedFile>>,
    /// Texts that were looked into and are not rendered yet.
    candidates: BTreeMap<String, Arc<ParsedFile>>,
    tenants: HashMap<NamespacedName, Made>,
}

/// A tenant and the documents that it was made from, which are part of it.
pub(super) struct Made {
    pub(super) inputs: Vec<Arc<Document>>,
    pub(super) manifest: Result<Arc<TenantManifest>, Faults>,
}

impl Renderer {
    pub fn new(settings: RenderSettings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Kind and name of every document of `text`; `None` when one of them
    /// cannot be told apart.
    pub fn objects(&mut self, file: &str, text: &Arc<str>) -> Option<Arc<BTreeSet<String>>> {
        let parsed = self.known(file, text).unwrap_or_else(|| {
            let parsed = Arc::new(ParsedFile::parse(file, text));
            self.candidates.insert(file.to_owned(), Arc::clone(&parsed));
            parsed
        });
        parsed.objects.clone()
    }

    /// Renders the documents of `files`.
    pub fn render(&mut self, files: &Files) -> Manifests {
        self.parse(files);
        let mut collected = Collected::default();
        for (file, error) in &files.unreadable {
            collected.unreadable(file, error);
        }
        for document in self.files.values().flat_map(|file| &file.documents) {
            collected.add(document);
        }
        let (manifests, made) = collected.render(&self.settings, &self.tenants);
        self.tenants = made;
        manifests
    }

    fn known(&self, file: &str, text: &Arc<str>) -> Option<Arc<ParsedFile>> {
        let known = [self.files.get(file), self.candidates.get(file)];
        let same = known
            .into_iter()
            .flatten()
            .find(|known| known.text == *text);
        same.cloned()
    }

    fn parse(&mut self, files: &Files) {
        let (mut parsed, mut unknown) = (BTreeMap::new(), Vec::new());
        for (file, text) in &files.texts {
            match self.known(file, text) {
                Some(known) => {
                    parsed.insert(file.clone(), known);
                }
                None => unknown.push((file.as_str(), text)),
            }
        }
        parsed.extend(parse_all(&unknown));
        self.candidates.clear();
        self.files = parsed;
    }
}

fn parse_all(files: &[(&str, &Arc<str>)]) -> Vec<(String, Arc<ParsedFile>)> {
    let parse = |(file, text): &(&str, &Arc<str>)| {
        ((*file).to_owned(), Arc::new(ParsedFile::parse(file, text)))
    };
    if files.len() < FEW_FILES {
        return files.iter().map(parse).collect();
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = files.len().div_ceil(threads);
    thread::scope(|scope| {
        let parts: Vec<_> = files
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(parse).collect::<Vec<_>>()))
            .collect();
        let parsed = parts.into_iter().flat_map(|part| match part.join() {
            Ok(parsed) => parsed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        parsed.collect()
    })
}
