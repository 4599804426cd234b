//! Validates an object as the API server does before it stores one (K8S-4): it refuses unknown
//! fields, fills in defaults, checks types and bounds, and evaluates CEL rules. The generated
//! schema decides all of this, so each rule is written once and has one message.

mod cel;
mod metadata;
mod patterns;
mod schema;

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use kube::CustomResourceExt;
use minichat_config::Faults;
use serde_json::{Map, Value};

use crate::{ChatQuota, ChatTenant, GROUP, VERSION, generate};

pub use metadata::{is_label, is_subdomain, metadata};

static CHAT_TENANT: LazyLock<Validator> = LazyLock::new(Validator::of::<ChatTenant>);
static CHAT_QUOTA: LazyLock<Validator> = LazyLock::new(Validator::of::<ChatQuota>);

/// `object` as the API server would store it, read as a `ChatTenant`. With `old`
/// the rules that compare with the stored object apply as well.
pub fn chat_tenant(object: &Value, old: Option<&Value>) -> Result<ChatTenant, Faults> {
    read(CHAT_TENANT.validate(object, old)?)
}

/// The same for a `ChatQuota`.
pub fn chat_quota(object: &Value, old: Option<&Value>) -> Result<ChatQuota, Faults> {
    read(CHAT_QUOTA.validate(object, old)?)
}

fn read<K: serde::de::DeserializeOwned>(object: Value) -> Result<K, Faults> {
    serde_json::from_value(object).map_err(|error| {
        let mut faults = Faults::default();
        faults.add("", error.to_string());
        faults
    })
}

/// The schema of one kind with its rules compiled.
struct Validator {
    kind: String,
    schema: Value,
    rules: cel::Rules,
}

impl Validator {
    fn of<K: CustomResourceExt>() -> Self {
        let schema = generate::schema::<K>();
        let rules = cel::Rules::of(&schema);
        Self {
            kind: K::crd().spec.names.kind,
            schema,
            rules,
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Result<Value, Faults> {
        let mut faults = Faults::default();
        let stored = self.defaulted(object, &mut faults);
        // As on the API server, rules see only objects whose shape is right.
        let stored = faults.into_result(stored)?;
        let mut faults = Faults::default();
        let old = old.map(|old| self.defaulted(old, &mut Faults::default()));
        self.rules.evaluate(&stored, old.as_ref(), "", &mut faults);
        faults.into_result(stored)
    }

    /// The object with defaults; its status is left out, since only the status
    /// subresource may write it.
    fn defaulted(&self, object: &Value, faults: &mut Faults) -> Value {
        let Value::Object(given) = object else {
            faults.add("", "must be an object");
            return Value::Null;
        };
        for key in given.keys() {
            let known = matches!(
                key.as_str(),
                "apiVersion" | "kind" | "metadata" | "spec" | "status"
            );
            faults.require(known, key, "unknown field");
        }
        let api_version = format!("{GROUP}/{VERSION}");
        faults.require(
            given.get("apiVersion").is_some_and(|v| *v == api_version),
            "apiVersion",
            format!("must be {api_version}"),
        );
        faults.require(
            given.get("kind").is_some_and(|v| *v == self.kind),
            "kind",
            format!("must be {}", self.kind),
        );
        let mut stored = Map::new();
        for key in ["apiVersion", "kind"] {
            stored.insert(key.to_owned(), given.get(key).cloned().unwrap_or_default());
        }
        stored.insert(
            "metadata".to_owned(),
            metadata(given.get("metadata"), faults),
        );
        match given.get("spec") {
            None | Some(Value::Null) => faults.add("spec", "is required"),
            Some(spec) => {
                let spec =
                    schema::validate(&self.schema["properties"]["spec"], spec, "spec", faults);
                stored.insert("spec".to_owned(), spec);
            }
        }
        Value::Object(stored)
    }
}
