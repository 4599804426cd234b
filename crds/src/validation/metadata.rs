//! `metadata` of an object in a file.

use minichat_config::Faults;
use serde_json::{Map, Value};

/// What the API server itself fills in; accepted so that the output of
/// `kubectl get -o yaml` is a manifest, and dropped.
const SERVER_SIDE: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Checks `metadata`; keeps name, namespace (`default` when absent), labels and
/// annotations.
pub fn metadata(given: Option<&Value>, faults: &mut Faults) -> Value {
    let Some(Value::Object(given)) = given else {
        faults.add("metadata", "is required and must be an object with a name");
        return Value::Null;
    };
    let mut kept = Map::new();
    for (key, value) in given {
        let path = format!("metadata.{key}");
        match key.as_str() {
            "name" => {}
            "namespace" => {
                let valid = value.as_str().is_some_and(is_label);
                faults.require(
                    valid,
                    &path,
                    "must be lower-case letters, digits and -, at most 63",
                );
                kept.insert(key.clone(), value.clone());
            }
            "labels" | "annotations" => {
                let texts = value
                    .as_object()
                    .is_some_and(|map| map.values().all(Value::is_string));
                faults.require(texts || value.is_null(), &path, "must map texts to texts");
                kept.insert(key.clone(), value.clone());
            }
            key if SERVER_SIDE.contains(&key) => {}
            _ => faults.add(path, "unknown field"),
        }
    }
    let name = given
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    faults.require(
        is_subdomain(name),
        "metadata.name",
        "is required and must be lower-case letters, digits, - and ., such as acme",
    );
    kept.insert("name".to_owned(), name.into());
    kept.entry("namespace").or_insert_with(|| "default".into());
    Value::Object(kept)
}

/// Whether `text` may name an object: an RFC 1123 subdomain.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

/// Whether `text` may name a namespace: an RFC 1123 label.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
