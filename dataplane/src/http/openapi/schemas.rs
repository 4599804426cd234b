//! Turns types into schemas. Requests and answers differ: a request may send
//! `null` for a member that it could omit, but an answer never does (API-4).

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::http::operation::SchemaOf;

/// Marks the schema of an object any of whose members may be left out of an answer, though not made `null`. The document
/// does not contain the mark.
pub(in crate::http) const MAY_LEAVE_OUT_ALL: &str = "x-may-leave-out-all";

/// The types that a document refers to.
pub(super) struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12()
                .with(|settings| settings.definitions_path = "/components/schemas".into())
                .with_transform(RecursiveTransform(describe_to_clients))
        };
        let answers = settings()
            .for_serialize()
            .with_transform(RecursiveTransform(never_null_if_left_out))
            .with_transform(RecursiveTransform(require_nothing_if_marked));
        Self {
            requests: settings().into_generator(),
            answers: answers.into_generator(),
        }
    }

    /// The schema of a type in a request.
    pub(super) fn request(&mut self, schema: SchemaOf) -> Value {
        schema(&mut self.requests).to_value()
    }

    /// The schema of a type in an answer.
    pub(super) fn answer(&mut self, schema: SchemaOf) -> Value {
        schema(&mut self.answers).to_value()
    }

    /// All schemas that were referred to, by name.
    pub(super) fn into_components(mut self) -> Map<String, Value> {
        let mut components = self.requests.take_definitions(true);
        components.extend(self.answers.take_definitions(true));
        components
    }
}

fn never_null_if_left_out(schema: &mut Schema) {
    let required = schema.get("required").and_then(Value::as_array).cloned();
    let required = required.unwrap_or_default();
    let Some(Value::Object(members)) = schema.get_mut("properties") else {
        return;
    };
    for (name, member) in members {
        if required.iter().any(|known| known == name) {
            continue;
        }
        if let Some(Value::Array(types)) = member.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                member["type"] = only.clone();
            }
        }
        if let Some(Value::Array(alternatives)) = member.get_mut("anyOf") {
            alternatives.retain(|alternative| alternative["type"] != "null");
            if let [only] = alternatives.as_slice() {
                let only = only.clone();
                replace_alternatives(member, only);
            }
        }
    }
}

fn require_nothing_if_marked(schema: &mut Schema) {
    if schema.remove(MAY_LEAVE_OUT_ALL).is_some() {
        schema.remove("required");
    }
}

/// Replaces `member` by its only alternative and keeps the member's
/// description.
fn replace_alternatives(member: &mut Value, only: Value) {
    if let (Value::Object(member), Value::Object(only)) = (member, only) {
        member.remove("anyOf");
        member.extend(only);
    }
}

/// Joins wrapped lines and removes rule ids, which only readers of the code
/// know.
fn describe_to_clients(schema: &mut Schema) {
    let Some(Value::String(text)) = schema.get("description") else {
        return;
    };
    let text = uncited(&text.replace('\n', " "));
    if text.is_empty() {
        schema.remove("description");
    } else {
        schema.insert("description".to_owned(), text.into());
    }
}

/// `text` without parentheses that contain only rule ids.
fn uncited(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside, after)) = parenthesis(rest) {
        kept.push_str(before);
        if inside.split([',', ' ']).any(is_rule) {
            kept.truncate(kept.trim_end().len());
        } else {
            kept.extend(["(", inside, ")"]);
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

fn parenthesis(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('(')?;
    let (inside, after) = rest.split_once(')')?;
    Some((before, inside, after))
}

/// Whether `word` is a rule id such as `API-50` or `D26`.
fn is_rule(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '-');
    digits.len() < word.len() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citations_of_rules_are_left_out() {
        for (text, shown) in [
            ("A chat (API-50).", "A chat."),
            ("None (D26), or one.", "None, or one."),
            ("Two (API-1, API-2) of (three).", "Two of (three)."),
            ("Open (", "Open ("),
        ] {
            assert_eq!(uncited(text), shown);
        }
    }
}
