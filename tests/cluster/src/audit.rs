//! The API server's log of every write, for suites that count them.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

/// What the API server logs: each write once, after the answer.
pub(crate) const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived", "ResponseStarted"],
  "rules": [
    {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
    {"level": "None"}
  ]
}"#;

/// One write that the API server answered, even if it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Event")]
pub struct Write {
    /// Such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Plural name, such as `chattenants`.
    pub resource: String,
    /// Such as `status`; otherwise empty.
    pub subresource: String,
    /// Empty for objects outside of namespaces.
    pub namespace: String,
    /// Empty for a `create`, where the path does not name the object.
    pub name: String,
    /// Status code of the answer.
    pub code: u16,
    /// When the server answered, in RFC 3339 with microseconds.
    pub answered: String,
}

impl Write {
    /// Whether the server accepted it.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

#[derive(Deserialize)]
struct Event {
    verb: String,
    user: User,
    #[serde(default, rename = "objectRef")]
    object: Object,
    #[serde(default, rename = "responseStatus")]
    status: Status,
    #[serde(rename = "stageTimestamp")]
    answered: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

impl From<Event> for Write {
    fn from(event: Event) -> Self {
        Self {
            user: event.user.username,
            verb: event.verb,
            resource: event.object.resource,
            subresource: event.object.subresource,
            namespace: event.object.namespace,
            name: event.object.name,
            code: event.status.code,
            answered: event.answered,
        }
    }
}

/// Every complete line of the log.
pub(crate) fn read(log: &Path) -> anyhow::Result<Vec<Write>> {
    let text = fs::read_to_string(log).context("the audit log cannot be read")?;
    // The last line may be half written.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let writes = complete.lines().map(serde_json::from_str);
    Ok(writes.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_half_a_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("audit.log");
        let line =
            r#"{"verb":"patch","user":{"username":"admin"},"objectRef":{"resource":"secrets",
            "namespace":"a","name":"b"},"responseStatus":{"code":200},
            "stageTimestamp":"2026-01-02T03:04:05.000006Z"}"#
                .replace('\n', "");
        fs::write(&log, format!("{line}\n{}", &line[..40])).unwrap();
        let writes = read(&log).unwrap();
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].resource, "secrets");
        assert!(writes[0].is_accepted());
        assert_eq!(writes[0].answered, "2026-01-02T03:04:05.000006Z");
    }
}
