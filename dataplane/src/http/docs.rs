//! The OpenAPI document and a page that shows it (API-27). They contain nothing
//! about users, so they need no identity.

use std::sync::Arc;

use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use minichat_config::ProcessConfig;

use super::openapi;
use crate::app::App;

/// It loads nothing from other hosts.
const VIEWER: &str = include_str!("docs.html");

const VIEWER_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The routes of the documents. Empty if they are disabled.
pub(super) fn routes(config: &ProcessConfig) -> Vec<(String, MethodRouter<Arc<App>>)> {
    if !config.server.docs_enabled {
        return Vec::new();
    }
    let root = &config.server.root_prefix;
    let document = openapi::document(&format!("{}/v1", config.base_path())).to_string();
    let json = HeaderValue::from_static("application/json");
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let no_store = HeaderValue::from_static("no-store");
    let document = (
        [(CONTENT_TYPE, json), (CACHE_CONTROL, no_store.clone())],
        Bytes::from(document),
    );
    let viewer = (
        [
            (CONTENT_TYPE, html),
            (CACHE_CONTROL, no_store),
            (CONTENT_SECURITY_POLICY, VIEWER_POLICY),
        ],
        VIEWER,
    );
    vec![
        (
            format!("{root}/openapi.json"),
            get(async move || document.clone().into_response()),
        ),
        (
            format!("{root}/docs"),
            get(async move || viewer.clone().into_response()),
        ),
    ]
}
