use std::borrow::Cow;
use std::collections::BTreeSet;

use minichat_core::quota::DowngradeReason;
use minichat_core::stream::event::DeltaKind;
use minichat_core::stream::{
    Done, DoneUsage, EventKind, QuotaDecision, StreamErrorCode, StreamEvent, StreamStarted,
};
use minichat_core::turn::TurnErrorCode;
use minichat_core::{MessageId, RequestId};
use serde_json::Value;

use super::{document, events};

fn names(object: &Value) -> BTreeSet<&str> {
    let members = object.as_object().into_iter().flatten();
    members.map(|(name, _)| name.as_str()).collect()
}

fn every_reference(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "$ref" => {
                        found.insert(text.clone());
                    }
                    member => every_reference(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| every_reference(item, found)),
        _ => {}
    }
}

/// API-27: every reference has a component, and every component is referred to.
#[test]
fn references_and_components_agree() {
    let document = document("/v1");
    let mut referred = BTreeSet::new();
    every_reference(&document, &mut referred);
    let components = ["schemas", "headers"].iter().flat_map(|kind| {
        let components = names(&document["components"][kind]);
        components
            .into_iter()
            .map(move |name| format!("#/components/{kind}/{name}"))
    });
    assert_eq!(referred, components.collect());
}

/// API-27: readers of the document do not know the specification's rules.
#[test]
fn no_description_cites_a_rule() {
    let text = document("/v1").to_string();
    for chapter in ["API-", "TURN-", "QUOTA-", "CONT-", "PLAT-"] {
        assert!(!text.contains(chapter), "{chapter}");
    }
}

/// API-4
#[test]
fn what_an_answer_may_leave_out_is_never_null_in_it() {
    let document = document("/v1");
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Chat"]["properties"]["title"]["type"], "string");
    let reaction = &schemas["Message"]["properties"]["my_reaction"];
    assert_eq!(reaction["type"], serde_json::json!(["string", "null"]));
    let reason = &schemas["Done"]["oneOf"][1]["properties"]["downgrade_reason"];
    assert_eq!(reason["$ref"], "#/components/schemas/DowngradeReason");
    let title = &schemas["CreateChat"]["properties"]["title"];
    assert_eq!(title["type"], serde_json::json!(["string", "null"]));
    let content = &schemas["SendMessage"]["properties"]["content"];
    assert_eq!(content["type"], "string");
}

fn done(quota_decision: QuotaDecision) -> StreamEvent<'static> {
    StreamEvent::Done(Box::new(Done {
        usage: Some(DoneUsage {
            input_tokens: 1,
            output_tokens: 2,
        }),
        effective_model: "std".into(),
        selected_model: "prem".into(),
        quota_decision,
        quota_warnings: Some(Vec::new()),
    }))
}

fn written() -> Vec<StreamEvent<'static>> {
    let text = Cow::Borrowed("text");
    let error = |code| StreamEvent::Error {
        code,
        message: Cow::Borrowed("Why."),
    };
    vec![
        StreamEvent::StreamStarted(StreamStarted {
            request_id: RequestId::random(),
            message_id: MessageId::random(),
            is_new_turn: true,
            thread_summary_applied: None,
        }),
        StreamEvent::Ping,
        StreamEvent::Delta {
            kind: DeltaKind::Text,
            text: text.clone(),
        },
        StreamEvent::Delta {
            kind: DeltaKind::Reasoning,
            text,
        },
        done(QuotaDecision::Allow),
        done(QuotaDecision::Downgrade {
            downgrade_from: "prem".into(),
            downgrade_reason: Some(DowngradeReason::ModelDisabled),
        }),
        error(TurnErrorCode::ProviderError.into()),
        error(StreamErrorCode::Cancelled),
        error(StreamErrorCode::StreamInterrupted),
    ]
}

fn data(event: &StreamEvent<'_>) -> Value {
    let mut frame = Vec::new();
    event.encode(&mut frame);
    let frame = String::from_utf8(frame).unwrap();
    serde_json::from_str(frame.split_once("data: ").unwrap().1).unwrap()
}

/// Every schema that applies to `data`: the one called `name`, and its
/// alternative whose constants match `data`.
fn applying<'a>(schema: &'a Value, data: &Value) -> Vec<&'a Value> {
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let chosen = alternatives.filter(|alternative| {
        let members = alternative["properties"].as_object().unwrap();
        members
            .iter()
            .all(|(name, member)| member.get("const").is_none_or(|it| *it == data[name]))
    });
    std::iter::once(schema).chain(chosen).collect()
}

/// API-27, API-140 to API-146: the bytes of a stream match the document.
#[test]
fn events_are_written_as_they_are_described() {
    let document = document("/v1");
    let schemas = &document["components"]["schemas"];
    for event in written() {
        let data = data(&event);
        let applying = applying(&schemas[events::name(event.kind())], &data);
        let mut described = BTreeSet::new();
        for schema in &applying {
            described.extend(names(&schema["properties"]));
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(data.get(required.as_str().unwrap()).is_some(), "{data}");
            }
            for (name, member) in schema["properties"].as_object().into_iter().flatten() {
                let allowed = member["enum"].as_array();
                let value = data.get(name);
                let fits = allowed
                    .zip(value)
                    .is_none_or(|(allowed, value)| allowed.contains(value));
                assert!(fits, "{name} of {data}");
            }
        }
        assert!(names(&data).is_subset(&described), "{data} {described:?}");
    }
}

/// API-27
#[test]
fn seven_events_are_described() {
    let document = document("/v1");
    let schemas = &document["components"]["schemas"];
    for kind in EventKind::ALL {
        assert!(schemas.get(events::name(kind)).is_some(), "{kind:?}");
    }
    let alternatives = &schemas["StreamEvent"]["oneOf"];
    assert_eq!(alternatives.as_array().unwrap().len(), 7);
}
