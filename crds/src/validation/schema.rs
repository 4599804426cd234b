//! Structure: unknown fields, defaults, types, enums and bounds.

use std::collections::HashSet;

use minichat_config::Faults;
use serde_json::{Map, Value};

use super::patterns;

/// `value` with defaults, checked against `schema`. Messages follow those of the
/// API server.
pub(super) fn validate(schema: &Value, value: &Value, path: &str, faults: &mut Faults) -> Value {
    let expected = schema["type"].as_str().unwrap_or("integer or string");
    let fits = match (expected, value) {
        ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string" | "integer or string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_)) => true,
        ("integer" | "integer or string", Value::Number(n)) => n.is_i64() || n.is_u64(),
        _ => false,
    };
    if !fits {
        let message = match (expected, value.as_f64()) {
            ("integer or string", Some(fraction)) => {
                format!("a fraction must be quoted; write \"{fraction}\"")
            }
            _ => format!("must be of type {expected}, not {}", type_of(value)),
        };
        faults.add(path, message);
        return value.clone();
    }
    match value {
        Value::Object(given) => object(schema, given, path, faults),
        Value::Array(items) => array(schema, items, path, faults),
        Value::String(text) => {
            string(schema, text, path, faults);
            value.clone()
        }
        Value::Number(_) => {
            number(schema, value, path, faults);
            value.clone()
        }
        Value::Null | Value::Bool(_) => value.clone(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn object(schema: &Value, given: &Map<String, Value>, path: &str, faults: &mut Faults) -> Value {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return Value::Object(given.clone());
    }
    let no_properties = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&no_properties);
    for key in given.keys().filter(|key| !properties.contains_key(*key)) {
        faults.add(format!("{path}.{key}"), unknown(key, properties));
    }
    let mut stored = Map::new();
    for (key, property) in properties {
        // No field is nullable, so null means absent.
        let value = given.get(key).filter(|value| !value.is_null());
        if let Some(value) = value.or_else(|| property.get("default")) {
            let value = validate(property, value, &format!("{path}.{key}"), faults);
            stored.insert(key.clone(), value);
        }
    }
    for key in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        faults.require(
            stored.contains_key(key),
            format!("{path}.{key}"),
            "is required",
        );
    }
    Value::Object(stored)
}

fn unknown(key: &str, properties: &Map<String, Value>) -> String {
    let same_letters = |known: &&String| known.eq_ignore_ascii_case(key);
    if let Some(known) = properties.keys().find(same_letters) {
        return format!("unknown field; write {known}");
    }
    let known: Vec<_> = properties.keys().map(String::as_str).collect();
    format!("unknown field; known are {}", known.join(", "))
}

fn array(schema: &Value, items: &[Value], path: &str, faults: &mut Faults) -> Value {
    let size = items.len() as u64;
    if let Some(max) = schema["maxItems"].as_u64() {
        faults.require(size <= max, path, format!("must have at most {max} items"));
    }
    if let Some(min) = schema["minItems"].as_u64() {
        faults.require(size >= min, path, format!("must have at least {min} items"));
    }
    let stored: Vec<_> = items
        .iter()
        .enumerate()
        .map(|(i, item)| validate(&schema["items"], item, &format!("{path}[{i}]"), faults))
        .collect();
    let keys: Vec<_> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !keys.is_empty() {
        unique(&stored, &keys, path, faults);
    }
    Value::Array(stored)
}

fn unique(items: &[Value], keys: &[&str], path: &str, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let key: Vec<_> = keys.iter().map(|key| item[*key].to_string()).collect();
        let shown = key.join(", ");
        faults.require(
            seen.insert(key),
            format!("{path}[{i}]"),
            format!("duplicate value of {}: {shown}", keys.join(", ")),
        );
    }
}

fn string(schema: &Value, text: &str, path: &str, faults: &mut Faults) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64() {
        faults.require(
            length <= max,
            path,
            format!("must have at most {max} characters"),
        );
    }
    if let Some(min) = schema["minLength"].as_u64() {
        faults.require(
            length >= min,
            path,
            format!("must have at least {min} characters"),
        );
    }
    if let Some(allowed) = schema["enum"].as_array() {
        let words: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        faults.require(
            words.contains(&text),
            path,
            format!(
                "unsupported value {text:?}; write one of {}",
                words.join(", ")
            ),
        );
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matches = patterns::compiled(pattern).is_some_and(|regex| regex.is_match(text));
        faults.require(matches, path, format!("{text:?} should match {pattern}"));
    }
}

fn number(schema: &Value, value: &Value, path: &str, faults: &mut Faults) {
    let n = value.as_f64().unwrap_or(f64::NAN);
    if let Some(max) = schema["maximum"].as_f64() {
        faults.require(n <= max, path, format!("must be at most {max}"));
    }
    if let Some(min) = schema["minimum"].as_f64() {
        faults.require(n >= min, path, format!("must be at least {min}"));
    }
    if schema["format"] == "int32" {
        let fits = value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        faults.require(fits, path, "must fit in 32 bits");
    }
}
