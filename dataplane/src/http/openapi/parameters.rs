//! Parameters of paths and queries.

use serde_json::{Map, Value, json};

use crate::http::cursor::List;
use crate::http::operation::Operation;
use crate::http::{filter, list, order, select};

/// The parameters of an operation.
pub(super) fn of(operation: &Operation) -> Vec<Value> {
    let path = operation.path_parameters().map(in_path);
    path.chain(operation.list.into_iter().flat_map(in_query))
        .collect()
}

fn in_path(name: &str) -> Value {
    let schema = match name {
        "model_id" => json!({"type": "string", "minLength": 1}),
        _ => json!({"type": "string", "format": "uuid"}),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

fn in_query(of: List) -> [Value; 5] {
    let text = json!({"type": "string"});
    let limit = json!({"type": "integer", "minimum": 1, "default": list::DEFAULT_LIMIT});
    [
        parameter(
            "limit",
            &limit,
            &format!(
                "Number of items per page. A number above {0} counts as {0}.",
                list::MAX_LIMIT
            ),
        ),
        parameter(
            "cursor",
            &text,
            "`next_cursor` or `prev_cursor` of another page. It contains the order, so leave out \
             `$orderby`. `$filter` must be the same as for that page.",
        ),
        filter_parameter(of),
        order_parameter(of),
        select_parameter(of),
    ]
}

fn parameter(name: &str, schema: &Value, means: &str) -> Value {
    json!({"name": name, "in": "query", "description": means, "schema": schema})
}

/// With the operators of each field as `x-fields`.
fn filter_parameter(of: List) -> Value {
    let fields: Map<_, _> = filter::fields(of)
        .iter()
        .map(|(name, field)| ((*name).to_owned(), json!(field.operators())))
        .collect();
    let mut filter = parameter(
        "$filter",
        &json!({"type": "string"}),
        "Condition on the items: comparisons of fields, with `and`, `or`, `not` and parentheses, such as \
         `contains(title,'plan') and updated_at ge 2030-01-31T00:00:00Z`. Put texts in single \
         quotes, but not instants.",
    );
    filter["x-fields"] = Value::Object(fields);
    filter
}

/// With the fields as `x-fields`.
fn order_parameter(of: List) -> Value {
    let fields: Vec<_> = order::fields(of).map(|(name, _)| name).collect();
    let mut order = parameter(
        "$orderby",
        &json!({"type": "string"}),
        "Fields, separated by commas, each optionally followed by `asc` or `desc`.",
    );
    order["x-fields"] = fields.into();
    order
}

/// A list of names in one value.
fn select_parameter(of: List) -> Value {
    let names = json!({"type": "string", "enum": select::fields(of)});
    let mut select = parameter(
        "$select",
        &json!({"type": "array", "items": names, "minItems": 1, "uniqueItems": true}),
        "Members that the items have, separated by commas. Without it, they have all.",
    );
    select["style"] = "form".into();
    select["explode"] = false.into();
    select
}
