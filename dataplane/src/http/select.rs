//! `$select` of lists (API-47): the fields that the items of a page have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};

use super::cursor::List;
use super::openapi::MAY_LEAVE_OUT_ALL;
use crate::problem::Problem;

const MAX_BYTES: usize = 2048;
const MAX_NAMES: usize = 100;

/// The names of the fields to send.
#[derive(Debug)]
pub(super) struct Selection(Vec<&'static str>);

/// The fields of the items of `list`.
pub(super) const fn fields(list: List) -> &'static [&'static str] {
    match list {
        List::Chats => &[
            "id",
            "model",
            "title",
            "is_temporary",
            "message_count",
            "created_at",
            "updated_at",
        ],
        List::Messages => &[
            "id",
            "request_id",
            "role",
            "content",
            "attachments",
            "my_reaction",
            "model",
            "input_tokens",
            "output_tokens",
            "created_at",
        ],
    }
}

/// Parses the selection of fields of `list`.
pub(super) fn parse(text: &str, list: List) -> Result<Selection, Problem> {
    if text.len() > MAX_BYTES {
        return Err(invalid(format!("is longer than {MAX_BYTES} bytes")));
    }
    let names: Vec<_> = text.split(',').map(str::trim).collect();
    if names.contains(&"") {
        return Err(invalid("must be names, separated by commas"));
    }
    if names.len() > MAX_NAMES {
        return Err(invalid(format!("has more than {MAX_NAMES} names")));
    }
    let mut selected = Vec::with_capacity(names.len());
    for name in names {
        let field = field(name, list)?;
        if selected.contains(&field) {
            return Err(invalid(format!("names {field} twice")));
        }
        selected.push(field);
    }
    Ok(Selection(selected))
}

fn field(name: &str, list: List) -> Result<&'static str, Problem> {
    let fields = fields(list);
    let known = fields.iter().find(|field| field.eq_ignore_ascii_case(name));
    known.copied().ok_or_else(|| {
        let fields = fields.join(", ");
        invalid(format!(
            "names {name}; the fields of this list are {fields}"
        ))
    })
}

fn invalid(reason: impl Into<String>) -> Problem {
    Problem::invalid_field("$select", reason)
}

/// An item of a page: all of it, or the fields of a selection that it has.
#[derive(Debug)]
pub(super) struct Item<'a, T> {
    pub(super) whole: T,
    pub(super) selection: Option<&'a Selection>,
}

impl<T: Serialize> Serialize for Item<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(Selection(names)) = self.selection else {
            return self.whole.serialize(serializer);
        };
        let whole = serde_json::to_value(&self.whole).map_err(S::Error::custom)?;
        serializer.collect_map(
            names
                .iter()
                .filter_map(|name| Some((name, whole.get(name)?))),
        )
    }
}

/// Either the type of the whole item, or one with the same members, any of which may be left out.
impl<T: JsonSchema> JsonSchema for Item<'_, T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Item", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut selected = T::json_schema(generator);
        selected.insert(
            "title".into(),
            format!("Selected{}", T::schema_name()).into(),
        );
        selected.insert(
            "description".into(),
            "The members that `$select` names.".into(),
        );
        selected.insert(MAY_LEAVE_OUT_ALL.into(), true.into());
        json_schema!({ "anyOf": [generator.subschema_for::<T>(), selected] })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use minichat_core::ErrorCode;

    use super::*;
    use crate::http::chats::ChatView;
    use crate::http::messages::MessageView;

    fn members<T: JsonSchema>() -> BTreeSet<String> {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>();
        let members = schema
            .get("properties")
            .and_then(serde_json::Value::as_object);
        members
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// API-47, API-50, API-60
    #[test]
    fn every_member_of_an_item_can_be_selected() {
        let named = |list| fields(list).iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(members::<ChatView>(), named(List::Chats));
        assert_eq!(members::<MessageView>(), named(List::Messages));
    }

    /// API-47
    #[test]
    fn names_are_read_in_any_case_and_with_spaces() {
        let Selection(names) = parse("Title, id ,UPDATED_AT", List::Chats).unwrap();
        assert_eq!(names, ["title", "id", "updated_at"]);
        assert!(parse(&fields(List::Messages).join(","), List::Messages).is_ok());
    }

    /// API-47
    #[test]
    fn what_is_no_selection_is_refused() {
        let reason = |text: &str| {
            let problem = parse(text, List::Chats).err().unwrap();
            assert_eq!(problem.code, ErrorCode::InvalidRequest, "{text}");
            assert_eq!(problem.errors[0].field, "$select");
            problem.errors[0].message.clone()
        };
        let names = |count| vec!["id"; count].join(",");
        let long = "a".repeat(MAX_BYTES + 1);
        for (text, said) in [
            ("", "must be names"),
            ("id,", "must be names"),
            ("id,id", "names id twice"),
            ("id,ID", "names id twice"),
            (&names(100), "names id twice"),
            (&names(101), "more than 100 names"),
            (&long, "longer than 2048 bytes"),
            ("*", "names *"),
            ("id;title", "names id;title"),
            (
                "content",
                "names content; the fields of this list are id, model, title, ",
            ),
        ] {
            let reason = reason(text);
            assert!(reason.contains(said), "{text}: {reason}");
        }
    }

    /// API-4, API-47
    #[test]
    fn an_item_has_what_is_selected_and_no_more() {
        let whole = || serde_json::json!({"id": 1, "title": null, "model": "std"});
        let sent = |text| {
            let selection = parse(text, List::Chats).unwrap();
            let selection = Some(&selection);
            let whole = whole();
            serde_json::to_value(Item { whole, selection }).unwrap()
        };
        assert_eq!(sent("title"), serde_json::json!({"title": null}));
        assert_eq!(
            sent("model,id"),
            serde_json::json!({"id": 1, "model": "std"})
        );
        // This one does not have it.
        assert_eq!(sent("created_at"), serde_json::json!({}));
        let all = Item {
            whole: whole(),
            selection: None,
        };
        assert_eq!(serde_json::to_value(all).unwrap(), whole());
    }
}
