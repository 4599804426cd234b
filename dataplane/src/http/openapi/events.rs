//! The events of a stream (API-131 to API-146). `delta`, `ping` and `error`
//! have no type of their own, because the hot path writes their bytes; a claim
//! compares what is written with what is described.

use minichat_core::stream::event::DeltaKind;
use minichat_core::stream::{Done, EventKind, StreamErrorCode, StreamStarted};
use minichat_core::turn::TurnErrorCode;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::schemas::Schemas;

/// What stands for each event of a stream.
pub(super) fn reference() -> Value {
    json!({"$ref": "#/components/schemas/StreamEvent"})
}

/// Adds the seven events, and what they refer to.
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
        "description": "One event of a stream, written as `event: NAME`, `data: JSON` on one line, and an \
            empty line. A stream is `stream_started ping* (delta | tool)* citations? (done | error)`. \
            Lines that begin with a colon only keep the connection alive.",
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
    object("The model has not begun to answer.", &[], &json!({}))
}

fn delta() -> Value {
    let kinds = [DeltaKind::Text, DeltaKind::Reasoning].map(DeltaKind::as_str);
    object(
        "More of the answer, or of what the model thinks, which is not stored.",
        &["type", "content"],
        &json!({
            "type": {"type": "string", "enum": kinds},
            "content": {"type": "string"},
        }),
    )
}

fn tool() -> Value {
    object(
        "A tool begins or ends. `details` depend on the tool: `files_searched` of `file_search`, \
         `output` of `code_interpreter`, when they are done.",
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
        "description": "Characters of the answer.",
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
            "url": {"description": "Of a page.", "type": "string"},
            "attachment_id": {"description": "Of a file.", "type": "string", "format": "uuid"},
            "snippet": {"type": "string"},
            "score": {"type": "number"},
            "span": span,
        },
    });
    object(
        "Where the answer comes from.",
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
        "The turn failed or was stopped. Not a problem document.",
        &["code", "message"],
        &json!({
            "code": {"type": "string", "enum": codes},
            "message": {"description": "Text for people.", "type": "string"},
        }),
    )
}
