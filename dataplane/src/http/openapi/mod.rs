//! Generates the OpenAPI document (API-27) from the table of operations and
//! from the types of requests and answers.

mod events;
mod parameters;
mod schemas;

use std::collections::BTreeMap;

use minichat_core::ErrorCode;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

pub(super) use self::schemas::MAY_LEAVE_OUT_ALL;
use self::schemas::Schemas;
use super::error;
use super::operation::{Content, Operation, Success};
use super::operations;

/// The document of an API whose base path is `base`, such as
/// `/mini-chat/v1`.
pub fn document(base: &str) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = describe(&operation, &mut schemas);
    }
    schemas.answer(SchemaGenerator::subschema_for::<error::Document<'_>>);
    let mut schemas = schemas.into_components();
    events::describe(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "minichat",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Chats with models, answered word by word. Ignore members and events that \
                you do not know: more may come.",
        },
        "servers": [{"url": base}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": headers(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    })
}

fn describe(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    for success in &operation.successes {
        responses.insert(success.status.to_string(), answer(success, schemas));
    }
    for (status, codes) in by_status(&operation.refusals()) {
        responses.insert(status.to_string(), refusal(status, &codes));
    }
    let scope = if operation.method.is_safe() {
        "ai:mini_chat:read"
    } else {
        "ai:mini_chat:write"
    };
    let scopes: Vec<_> = [scope].into_iter().chain(operation.scope).collect();
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.path.split('/').nth(1)],
        "security": [{"bearer": scopes}],
        "parameters": parameters::of(operation),
        "responses": responses,
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schemas.request(body)}},
        });
    }
    if operation.uploads {
        described["requestBody"] = form();
    }
    described
}

/// The body of an upload.
fn form() -> Value {
    let file = json!({
        "description": "The file. The part needs a file name and a `Content-Type`.",
        "type": "string",
        "contentMediaType": "application/octet-stream",
    });
    let schema = json!({"type": "object", "required": ["file"], "properties": {"file": file}});
    json!({
        "required": true,
        "content": {"multipart/form-data": {"schema": schema}},
    })
}

fn answer(success: &Success, schemas: &mut Schemas) -> Value {
    let mut answer = json!({
        "description": success.means,
        "headers": headers_of(success.status),
    });
    match success.content {
        Content::Nothing => {}
        Content::Json(schema) => {
            answer["content"]["application/json"]["schema"] = schemas.answer(schema);
        }
        Content::JsonLines(schema) => {
            answer["content"]["application/jsonl"]["schema"] = schemas.answer(schema);
        }
        Content::Events => {
            answer["content"]["text/event-stream"]["schema"] = events::reference();
        }
    }
    answer
}

fn by_status(codes: &[ErrorCode]) -> BTreeMap<u16, Vec<&'static str>> {
    let mut statuses = BTreeMap::new();
    for code in codes {
        let codes: &mut Vec<_> = statuses.entry(code.http_status()).or_default();
        codes.push(code.token());
    }
    statuses
}

fn refusal(status: u16, codes: &[&str]) -> Value {
    let schema = json!({
        "$ref": "#/components/schemas/Problem",
        "properties": {"code": {"enum": codes}, "status": {"const": status}},
    });
    json!({
        "description": format!("`{}`", codes.join("`, `")),
        "headers": headers_of(status),
        "content": {"application/problem+json": {"schema": schema}},
    })
}

/// Response headers: name, description, the statuses that have it (empty =
/// all), and whether these always have it.
const HEADERS: &[(&str, &str, &[u16], bool)] = &[
    (
        "X-Request-Id",
        "The caller's id of the request, or a generated one. Logs contain it.",
        &[],
        true,
    ),
    (
        "RateLimit-Policy",
        "Limits of this route: requests at once and per second.",
        &[],
        false,
    ),
    (
        "X-RateLimit-Limit",
        "Maximum number of requests at once to this route.",
        &[],
        false,
    ),
    (
        "X-RateLimit-Remaining",
        "Number of requests that are left at the moment.",
        &[],
        false,
    ),
    ("Location", "Path of the created object.", &[201], true),
    ("WWW-Authenticate", "`Bearer`.", &[401], true),
    (
        "Retry-After",
        "Seconds after which to try again.",
        &[429, 503],
        false,
    ),
];

fn headers() -> Value {
    let header = |&(name, means, _, required): &(&str, &str, &[u16], bool)| {
        let integer = matches!(
            name,
            "X-RateLimit-Limit" | "X-RateLimit-Remaining" | "Retry-After"
        );
        let kind = if integer { "integer" } else { "string" };
        let header = json!({"description": means, "required": required, "schema": {"type": kind}});
        (name.to_owned(), header)
    };
    Value::Object(HEADERS.iter().map(header).collect())
}

fn headers_of(status: u16) -> Value {
    let here = HEADERS
        .iter()
        .filter(|(_, _, statuses, _)| statuses.is_empty() || statuses.contains(&status));
    let reference = |name: &str| json!({"$ref": format!("#/components/headers/{name}")});
    Value::Object(
        here.map(|(name, ..)| ((*name).to_owned(), reference(name)))
            .collect(),
    )
}

#[cfg(test)]
mod tests;
