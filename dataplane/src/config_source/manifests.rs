//! The source `manifests` (K8S-4, K8S-21): a directory of YAML files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minichat_crds::RenderSettings;
use minichat_crds::manifests::{Files, Renderer};
use notify::RecursiveMode;
use tokio::task::spawn_blocking;

use super::folder::Reader;
use super::loader::Loader;
use super::settling::Objects;

/// Renders the manifests of a directory.
pub(super) struct ManifestReader {
    settings: RenderSettings,
    renderer: Renderer,
    loader: Loader,
}

impl ManifestReader {
    pub(super) fn new(settings: RenderSettings, loader: Loader) -> Self {
        Self {
            renderer: Renderer::new(settings.clone()),
            settings,
            loader,
        }
    }
}

impl Reader for ManifestReader {
    const DEPTH: RecursiveMode = RecursiveMode::NonRecursive;

    /// Files that end in `.yaml`, `.yml` or `.json` and do not begin with a
    /// dot.
    fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let extension = path.extension().and_then(|extension| extension.to_str());
            if let (Some(name), Some("yaml" | "yml" | "json")) = (name, extension)
                && !name.starts_with('.')
            {
                files.push((name.to_owned(), path));
            }
        }
        Ok(files)
    }

    fn objects(&mut self, file: &str, text: &Arc<str>) -> Objects {
        self.renderer.objects(file, text)
    }

    async fn load(&mut self, files: Files) -> bool {
        let mut renderer =
            std::mem::replace(&mut self.renderer, Renderer::new(self.settings.clone()));
        let rendering = spawn_blocking(move || {
            let manifests = renderer.render(&files);
            (manifests, renderer, files)
        });
        let Ok((manifests, renderer, files)) = rendering.await else {
            tracing::error!("reading the manifests panicked; the running configurations stay");
            return true;
        };
        self.renderer = renderer;
        self.loader.apply(&manifests, &files).await
    }
}
