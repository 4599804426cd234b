//! `GET /v1/models` and `GET /v1/models/{id}`. Every model is served, so a
//! model that is not listed is found as well.

use http::Method;
use serde_json::{Value, json};

/// The models of the list.
const LISTED: [&str; 2] = ["gpt-5", "gpt-5-mini"];

/// Answers a call; `None` for other paths.
pub(super) fn answer(method: &Method, path: &str) -> Option<Value> {
    let path = path.split('?').next().unwrap_or_default();
    let rest = path.strip_prefix("/openai").unwrap_or(path);
    let rest = rest.strip_prefix("/v1").unwrap_or(rest);
    let rest = rest.strip_prefix("/models")?;
    if method != Method::GET {
        return None;
    }
    match rest.strip_prefix('/') {
        Some(id) if !id.is_empty() => Some(model(id)),
        None if rest.is_empty() => Some(json!({"object": "list", "data": LISTED.map(model)})),
        _ => None,
    }
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": super::writer::CREATED_AT, "owned_by": "minichat"})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-122
    #[test]
    fn models_are_listed_and_each_is_found() {
        let list = answer(&Method::GET, "/v1/models?client_version=1").unwrap();
        assert_eq!(list["data"][0]["id"], "gpt-5");
        assert_eq!(list["data"][0]["object"], "model");
        let one = answer(&Method::GET, "/v1/models/org/any").unwrap();
        assert_eq!(one["id"], "org/any");
        assert_eq!(answer(&Method::POST, "/v1/models"), None);
        assert_eq!(answer(&Method::GET, "/v1/modelsx"), None);
    }
}
