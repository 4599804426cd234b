//! `/_control/…`: the handle's functions for tests whose provider is another
//! process.
//!
//! | Call | Does |
//! |---|---|
//! | `POST scenarios` | queues one [`Scenario`](super::Scenario), or an array of them |
//! | `GET requests` | the recorded requests |
//! | `GET stats` | the counters |
//! | `POST release?count=n` | lets n (default 1) held answers go on |
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

/// Answers the control call `action` (what follows `/_control/`).
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
