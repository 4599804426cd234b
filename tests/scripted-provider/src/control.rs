//! `/_control/…`: the methods of [`ScriptedProvider`](crate::ScriptedProvider)
//! for tests whose provider is another process.
//!
//! | Call | Does |
//! |---|---|
//! | `POST scenarios` | queues one [`Scenario`], or an array of them |
//! | `GET requests` | the recorded requests |
//! | `GET stats` | the counters |
//! | `POST release?count=n` | lets n (default 1) held answers continue |
//! | `POST reset` | forgets everything |

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Scenario, Shared};

#[derive(Deserialize)]
#[serde(untagged)]
enum Scenarios {
    Many(Vec<Scenario>),
    One(Box<Scenario>),
}

/// Answers the control call `action` (the path after `/_control/`).
pub(super) fn answer(
    shared: &Shared,
    method: &Method,
    action: &str,
    body: &Bytes,
) -> (StatusCode, Value) {
    let (action, query) = action.split_once('?').unwrap_or((action, ""));
    match (method.as_str(), action) {
        ("POST", "scenarios") => match serde_json::from_slice(body) {
            Ok(scenarios) => {
                match scenarios {
                    Scenarios::Many(list) => list
                        .into_iter()
                        .for_each(|scenario| shared.push_scenario(scenario)),
                    Scenarios::One(scenario) => shared.push_scenario(*scenario),
                }
                done()
            }
            Err(error) => (StatusCode::BAD_REQUEST, json!({"error": error.to_string()})),
        },
        ("GET", "requests") => (StatusCode::OK, json!(*shared.requests())),
        ("GET", "stats") => (StatusCode::OK, json!(shared.stats.snapshot())),
        ("POST", "release") => {
            let count = query.strip_prefix("count=").unwrap_or("1");
            shared.releases.add_permits(count.parse().unwrap_or(1));
            done()
        }
        ("POST", "reset") => {
            shared.reset();
            done()
        }
        _ => (StatusCode::NOT_FOUND, json!({"error": "no such control"})),
    }
}

fn done() -> (StatusCode, Value) {
    (StatusCode::OK, json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScriptedProvider;

    fn call(
        provider: &ScriptedProvider,
        method: &Method,
        action: &str,
        body: &str,
    ) -> (u16, Value) {
        let body = Bytes::from(body.to_owned());
        let (status, value) = answer(&provider.shared, method, action, &body);
        (status.as_u16(), value)
    }

    #[tokio::test]
    async fn scenarios_are_queued_one_or_many_and_typing_errors_are_told() {
        let provider = ScriptedProvider::start().await.unwrap();
        let one = r#"{"deltas": ["a"], "ending": {"failed": {"code": "c", "message": "m"}}}"#;
        let many = r#"[{"ending": "hang", "times": 2}, {"status": 429, "body": {}}]"#;
        let searching = r#"{"calls": [{"web_search": {"query": "q"}}], "short_order": true,
            "annotations": [{"type": "url_citation"}], "usage_details": {"cached": 1}}"#;
        for body in [one, many, searching] {
            assert_eq!(call(&provider, &Method::POST, "scenarios", body).0, 200);
        }
        let statuses: Vec<u16> = std::iter::from_fn(|| {
            let scenario = provider.shared.take_scenario("POST", "/v1/responses", true);
            scenario.map(|scenario| scenario.status)
        })
        .collect();
        assert_eq!(statuses, [200, 200, 200, 429, 200]);
        let (status, _) = call(&provider, &Method::POST, "scenarios", r#"{"statsu": 1}"#);
        assert_eq!(status, 400);
    }

    #[tokio::test]
    async fn releases_are_counted_and_reset_forgets_them() {
        let provider = ScriptedProvider::start().await.unwrap();
        call(&provider, &Method::POST, "release?count=3", "");
        call(&provider, &Method::POST, "release", "");
        assert_eq!(provider.shared.releases.available_permits(), 4);
        call(&provider, &Method::POST, "reset", "");
        assert_eq!(provider.shared.releases.available_permits(), 0);
        let (code, counters) = call(&provider, &Method::GET, "stats", "");
        assert_eq!((code, &counters["answers_started"]), (200, &json!(0)));
        assert_eq!(
            call(&provider, &Method::GET, "requests", ""),
            (200, json!([]))
        );
        assert_eq!(call(&provider, &Method::GET, "other", "").0, 404);
    }
}
