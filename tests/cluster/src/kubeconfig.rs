//! Kubeconfig files that contain all certificates, so that they can be copied.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::pki::Identity;

/// Writes a kubeconfig for one user of one server.
pub(crate) fn write(
    path: &Path,
    server: &str,
    authority: &str,
    user: &str,
    identity: &Identity,
) -> anyhow::Result<()> {
    let document = document(server, authority, user, identity);
    // JSON is valid YAML, so no YAML writer is needed.
    fs::write(path, serde_json::to_string_pretty(&document)?)?;
    Ok(())
}

fn document(server: &str, authority: &str, user: &str, identity: &Identity) -> Value {
    let encoded = |pem: &str| STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "minichat", "cluster": {
            "server": server, "certificate-authority-data": encoded(authority),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encoded(&identity.certificate),
            "client-key-data": encoded(&identity.key),
        }}],
        "contexts": [{"name": "minichat", "context": {"cluster": "minichat", "user": user}}],
        "current-context": "minichat",
    })
}
