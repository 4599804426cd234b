//! Files and vector stores in memory (PLAT-112).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::errors;

#[derive(Debug, Default)]
pub(super) struct Files {
    contents: BTreeMap<String, Bytes>,
    stores: BTreeMap<String, BTreeSet<String>>,
    next_id: u64,
}

/// The answer to a storage call.
pub(super) enum Reply {
    Json(StatusCode, Value),
    Content(Bytes),
}

/// Whether a call stores a file.
pub(super) fn is_upload(method: &Method, path: &str) -> bool {
    method == Method::POST && parts(path) == ["files"]
}

/// The parts of a path below `/v1` or `/openai`.
fn parts(path: &str) -> Vec<&str> {
    let path = path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/openai").unwrap_or(path);
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.split('/').filter(|part| !part.is_empty()).collect()
}

impl Files {
    pub(super) fn content(&self, id: &str) -> Option<Bytes> {
        self.contents.get(id).cloned()
    }

    /// The ids of all files, and of all stores.
    pub(super) fn ids(&self) -> (Vec<String>, Vec<String>) {
        (
            self.contents.keys().cloned().collect(),
            self.stores.keys().cloned().collect(),
        )
    }

    /// The files that are in a store, each with its store before it.
    pub(super) fn indexed(&self) -> Vec<(String, String)> {
        let stores = self.stores.iter();
        let files = |(store, files): (&String, &BTreeSet<String>)| {
            let files = files.iter().map(|file| (store.clone(), file.clone()));
            files.collect::<Vec<_>>()
        };
        stores.flat_map(files).collect()
    }

    /// Answers a call below `/v1` or `/openai`; `None` for other paths.
    pub(super) fn answer(&mut self, method: &Method, path: &str, body: &Bytes) -> Option<Reply> {
        Some(match (method.as_str(), parts(path).as_slice()) {
            ("POST", ["files"]) => self.upload(body),
            ("GET", ["files", id]) => match self.contents.get(*id) {
                Some(file) => found(json!({"id": id, "object": "file", "bytes": file.len()})),
                None => not_found(id),
            },
            ("GET", ["files", id, "content"]) => match self.contents.get(*id) {
                Some(file) => Reply::Content(file.clone()),
                None => not_found(id),
            },
            ("DELETE", ["files", id]) => deleted(id, "file", self.contents.remove(*id).is_some()),
            ("POST", ["vector_stores"]) => self.create_store(),
            ("GET", ["vector_stores", id]) => match self.stores.get(*id) {
                Some(files) => {
                    found(json!({"id": id, "object": "vector_store", "file_count": files.len()}))
                }
                None => not_found(id),
            },
            ("DELETE", ["vector_stores", id]) => deleted(
                id,
                "vector_store.deleted",
                self.stores.remove(*id).is_some(),
            ),
            ("POST", ["vector_stores", id, "files"]) => self.add_file(id, body),
            ("DELETE", ["vector_stores", id, "files", file]) => {
                let removed = self
                    .stores
                    .get_mut(*id)
                    .is_some_and(|files| files.remove(*file));
                deleted(file, "vector_store.file.deleted", removed)
            }
            _ => return None,
        })
    }

    fn upload(&mut self, body: &Bytes) -> Reply {
        let id = format!("file-mock-{:012x}", self.next());
        self.contents.insert(id.clone(), body.clone());
        found(json!({"id": id, "object": "file", "purpose": "assistants", "bytes": body.len()}))
    }

    fn create_store(&mut self) -> Reply {
        let id = format!("vs_mock_{:012x}", self.next());
        self.stores.insert(id.clone(), BTreeSet::new());
        found(json!({"id": id, "object": "vector_store", "status": "completed"}))
    }

    fn add_file(&mut self, store: &str, body: &Bytes) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let file = body["file_id"].as_str().unwrap_or_default().to_owned();
        match self.stores.get_mut(store) {
            Some(files) => {
                files.insert(file.clone());
                found(json!({"id": file, "object": "vector_store.file", "status": "completed"}))
            }
            None => not_found(store),
        }
    }

    fn next(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn found(body: Value) -> Reply {
    Reply::Json(StatusCode::OK, body)
}

fn deleted(id: &str, object: &str, was_there: bool) -> Reply {
    if was_there {
        found(json!({"id": id, "object": object, "deleted": true}))
    } else {
        not_found(id)
    }
}

fn not_found(id: &str) -> Reply {
    let message = format!("No such object: {id}");
    Reply::Json(
        StatusCode::NOT_FOUND,
        errors::invalid_request(&message, Some("id"), None),
    )
}
