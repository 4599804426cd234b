//! The source `manifests` (K8S-4, K8S-21): a directory of YAML files.

use std::io;
use std::path::Path;

use minichat_crds::manifests::Files;
use minichat_crds::{Manifests, RenderSettings};
use notify::RecursiveMode;
use tokio::task::spawn_blocking;

use super::folder::Reader;
use super::loader::Loader;

/// Renders the manifests of a directory.
pub(super) struct ManifestReader {
    pub(super) settings: RenderSettings,
    pub(super) loader: Loader,
}

impl Reader for ManifestReader {
    const DEPTH: RecursiveMode = RecursiveMode::NonRecursive;

    fn read(directory: &Path) -> io::Result<Files> {
        Files::read(directory)
    }

    async fn load(&mut self, files: Files) -> bool {
        let (settings, texts) = (self.settings.clone(), files.clone());
        let Ok(manifests) = spawn_blocking(move || Manifests::parse(&texts, &settings)).await
        else {
            tracing::error!("reading the manifests panicked; what runs goes on");
            return true;
        };
        self.loader.apply(manifests, &files).await
    }
}
