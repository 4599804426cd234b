//! The keys as a JSON schema, for documents that contain the configuration, such as
//! the values of the chart.

use serde_json::{Value, json};

use super::key::{KEYS, Key, Kind};

/// A strict schema of the file. It has no secrets, which belong in environment
/// variables. It has no listen addresses and none of the sections `left_out`, which
/// the program that starts the process sets.
pub fn json_schema(left_out: &[&str]) -> Value {
    let mut root = section();
    for key in KEYS {
        let section_name = key.name.split('.').next().unwrap_or_default();
        let is_foreign = left_out.contains(&section_name);
        if is_foreign || matches!(key.kind, Kind::Secret | Kind::Address) {
            continue;
        }
        let (path, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        let mut at = &mut root;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            at = &mut at["properties"][part];
            if at.is_null() {
                *at = section();
            }
        }
        at["properties"][name] = property(key);
    }
    root
}

fn section() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn property(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Text | Kind::Secret | Kind::Address => json!({ "type": "string" }),
        Kind::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::Number(low, high) => json!({ "type": "number", "minimum": low, "maximum": high }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Uuid => json!({ "type": "string", "pattern": UUID }),
        Kind::Networks | Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
    };
    schema["description"] = key.help.into();
    schema
}

const UUID: &str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_nest_and_refuse_what_they_do_not_know() {
        let schema = json_schema(&[]);
        let limit = &schema["properties"]["server"]["properties"]["rate_limit"];
        assert_eq!(limit["additionalProperties"], false);
        assert_eq!(limit["properties"]["burst"]["maximum"], 1_000_000);
    }

    #[test]
    fn secrets_addresses_and_named_sections_are_left_out() {
        let schema = json_schema(&["tracing"]);
        let properties = &schema["properties"];
        assert!(properties.get("tracing").is_none());
        assert!(properties["database"]["properties"].get("url").is_none());
        assert!(
            properties["server"]["properties"]
                .get("bind_addr")
                .is_none()
        );
        assert!(
            properties["database"]["properties"]
                .get("max_conns")
                .is_some()
        );
    }
}
