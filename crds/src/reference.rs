//! `docs/custom-resources.md`.

use serde_json::Value;

pub(crate) fn markdown(_crds: &[&Value]) -> String {
    String::new()
}
