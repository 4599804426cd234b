//! The events of a stream (API-131 to API-146). `delta`, `ping` and `error`
//! have no types, because the hot path writes their bytes directly. A test
//! compares the bytes with the document.

use minichat_core::stream::event::DeltaKind;
use minichat_core::stream::{Done, EventKind, StreamErrorCode, StreamStarted};
use minichat_core::turn::TurnErrorCode;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::schemas::Schemas;

/// A reference to the schema of all events.
pub(super) fn reference() -> Value {
    json!({"$ref": "#/components/schemas/StreamEvent"})
}

/// Adds the schemas of the seven events and of everything they refer to.
pub(super) fn describe(components: &mut Map<String, Value>) {
    let mut types = Schemas::new();
    types.answer(SchemaGenerator::subschema_for::<StreamStarted>);
    types.answer(SchemaGenerator::subschema_for::<Done>);
    components.extend(types.into_components());
    let by_hand = [
        (EventKind::Ping, ping()),
        (EventKind::Delta, delta()),
        (EventKind::Tool, tool()),
        (EventKind::Citations, citations()),
        (EventKind::Error, error()),
    ];
    for (kind, schema) in by_hand {
        components.insert(name(kind).to_owned(), schema);
    }
    components.insert("StreamEvent".to_owned(), event());
}

/// The name of the schema of an event's data.
pub(super) const fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::StreamStarted => "StreamStarted",
        EventKind::Ping => "Ping",
        EventKind::Delta => "Delta",
        EventKind::Tool => "Tool",
        EventKind::Citations => "Citations",
        EventKind::Done => "Done",
        EventKind::Error => "StreamError",
    }
}

fn event() -> Value {
    let alternative = |kind: EventKind| {
        json!({
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "event": {"const": kind.as_str()},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"$ref": format!("#/components/schemas/{}", name(kind))},
                },
            },
        })
    };
    json!({
        "description": "One event of a stream, written as a line `event: NAME`, a line `data: JSON`, and an \
            empty line. A stream is `stream_started ping* (delta | tool)* citations? (done | error)`. \
            Lines that begin with a colon are comments that keep the connection alive.",
        "oneOf": EventKind::ALL.map(alternative),
    })
}

fn object(description: &str, required: &[&str], members: &Value) -> Value {
    json!({
        "description": description,
        "type": "object",
        "required": required,
        "properties": members,
    })
}

fn ping() -> Value {
    object(
        "Keeps the connection alive before the model begins to answer.",
        &[],
        &json!({}),
    )
}

fn delta() -> Value {
    let kinds = [DeltaKind::Text, DeltaKind::Reasoning].map(DeltaKind::as_str);
    object(
        "A piece of the answer (`text`) or of the model's reasoning, which is not stored (`reasoning`).",
        &["type", "content"],
        &json!({
            "type": {"type": "string", "enum": kinds},
            "content": {"type": "string"},
        }),
    )
}

fn tool() -> Value {
    object(
        "A tool begins or ends. At the end, `details` has `files_searched` for `file_search` and \
         `output` for `code_interpreter`.",
        &["phase", "name", "details"],
        &json!({
            "phase": {"type": "string", "enum": ["start", "done"]},
            "name": {"type": "string"},
            "details": {"type": "object"},
        }),
    )
}

fn citations() -> Value {
    let position = json!({"type": "integer", "format": "int64", "minimum": 0});
    let span = json!({
        "description": "Range of characters in the answer.",
        "type": "object",
        "required": ["start", "end"],
        "properties": {"start": position, "end": position},
    });
    let citation = json!({
        "type": "object",
        "required": ["source", "title", "snippet"],
        "properties": {
            "source": {"type": "string", "enum": ["file", "web"]},
            "title": {"type": "string"},
            "url": {"description": "URL of the web page.", "type": "string"},
            "attachment_id": {"description": "Id of the file.", "type": "string", "format": "uuid"},
            "snippet": {"type": "string"},
            "score": {"type": "number"},
            "span": span,
        },
    });
    object(
        "Sources of the answer.",
        &["items"],
        &json!({"items": {"type": "array", "minItems": 1, "items": citation}}),
    )
}

fn error() -> Value {
    let codes: Vec<_> = TurnErrorCode::ALL
        .into_iter()
        .map(StreamErrorCode::Turn)
        .chain([
            StreamErrorCode::Cancelled,
            StreamErrorCode::StreamInterrupted,
        ])
        .map(StreamErrorCode::as_str)
        .collect();
    object(
        "The turn failed or was stopped. This is not a problem document.",
        &["code", "message"],
        &json!({
            "code": {"type": "string", "enum": codes},
            "message": {"description": "Text for people.", "type": "string"},
        }),
    )
}
