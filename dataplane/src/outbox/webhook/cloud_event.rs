//! Events as `CloudEvents` 1.0 in structured mode.

use minichat_core::TenantId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::payload::{Members, Payload};

/// Media type of one event.
pub(super) const ONE: &str = "application/cloudevents+json";
/// Media type of an array of events.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// One event. Absent attributes are left out, because `null` is no value.
#[derive(Serialize)]
pub(super) struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a RawValue,
}

impl<'a> CloudEvent<'a> {
    pub(super) fn new(
        tenant: TenantId,
        key: &'a str,
        traceparent: Option<&'a str>,
        payload: &'a Payload<'_>,
    ) -> Result<Self, String> {
        let members = &payload.members;
        Ok(Self {
            specversion: "1.0",
            id: key,
            source: format!("/minichat/tenants/{tenant}"),
            r#type: event_type(members)?,
            subject: members.turn_id.as_deref(),
            time: members.timestamp.as_deref(),
            datacontenttype: "application/json",
            traceparent,
            data: payload.raw()?,
        })
    }
}

/// The type says what `data` looks like. Its version changes when a member is
/// removed or gets another meaning, not when one is added.
fn event_type(members: &Members) -> Result<&'static str, String> {
    Ok(
        match (members.event_type.as_str(), members.kind.as_deref()) {
            ("usage_snapshot", _) => "dev.minichat.usage.v1",
            (_, Some("turn")) => "dev.minichat.audit.turn.v1",
            (_, Some("mutation")) => "dev.minichat.audit.mutation.v1",
            (_, Some("delete")) => "dev.minichat.audit.delete.v1",
            _ => return Err("the stored event is of no known type".to_owned()),
        },
    )
}
