//! The size limit of an event (PLAT-87).

use std::borrow::Cow;

use serde_json::Value;

use super::payload::unreadable;

/// Maximum size of an event in bytes.
pub(super) const MAX_EVENT_BYTES: usize = 256 * 1024;

/// The event as it is stored, or without the texts that make it too large:
/// first the answer is left out, then the prompt, then the summaries of files.
pub(super) fn fit(stored: &str) -> Result<Cow<'_, str>, String> {
    if stored.len() <= MAX_EVENT_BYTES {
        return Ok(Cow::Borrowed(stored));
    }
    let mut event: Value = serde_json::from_str(stored).map_err(|error| unreadable(&error))?;
    for leave_out in [drop_response, drop_prompt, drop_summaries] {
        leave_out(&mut event);
        let text = event.to_string();
        if text.len() <= MAX_EVENT_BYTES {
            return Ok(Cow::Owned(text));
        }
    }
    let bytes = stored.len();
    Err(format!(
        "the event has {bytes} bytes, and without texts still more than {MAX_EVENT_BYTES}"
    ))
}

fn drop_response(event: &mut Value) {
    remove(event, "response");
}

fn drop_prompt(event: &mut Value) {
    remove(event, "prompt");
}

fn drop_summaries(event: &mut Value) {
    let attachments = event.get_mut("attachments").and_then(Value::as_array_mut);
    for attachment in attachments.into_iter().flatten() {
        remove(attachment, "doc_summary");
    }
}

fn remove(object: &mut Value, member: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(member);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(response: usize, prompt: usize, summary: usize, other: usize) -> String {
        json!({
            "event_type": "turn_completed",
            "response": "r".repeat(response),
            "prompt": "p".repeat(prompt),
            "attachments": [
                {"filename": "a", "doc_summary": "s".repeat(summary)},
                {"filename": "b"},
            ],
            "error_code": "e".repeat(other),
        })
        .to_string()
    }

    fn members(fitted: &str) -> (bool, bool, bool) {
        let event: Value = serde_json::from_str(fitted).unwrap();
        assert_eq!(event["attachments"][0]["filename"], "a");
        (
            event.get("response").is_some(),
            event.get("prompt").is_some(),
            event["attachments"][0].get("doc_summary").is_some(),
        )
    }

    /// PLAT-87
    #[test]
    fn texts_are_left_out_one_after_the_other_until_the_event_fits() {
        const LARGE: usize = MAX_EVENT_BYTES;
        for (sizes, kept) in [
            ((LARGE, 9, 9), (false, true, true)),
            ((9, LARGE, 9), (false, false, true)),
            ((9, 9, LARGE), (false, false, false)),
            ((LARGE, LARGE, LARGE), (false, false, false)),
        ] {
            let (response, prompt, summary) = sizes;
            let stored = event(response, prompt, summary, 0);
            let fitted = fit(&stored).unwrap();
            assert!(fitted.len() <= MAX_EVENT_BYTES);
            assert_eq!(members(&fitted), kept, "{sizes:?}");
        }
    }

    /// PLAT-87: at the limit, byte for byte.
    #[test]
    fn an_event_of_the_largest_size_is_sent_as_it_is() {
        let rest = event(0, 9, 9, 0).len();
        let stored = event(MAX_EVENT_BYTES - rest, 9, 9, 0);
        assert_eq!(stored.len(), MAX_EVENT_BYTES);
        assert!(matches!(fit(&stored), Ok(Cow::Borrowed(same)) if same == stored));
        let longer = event(MAX_EVENT_BYTES - rest + 1, 9, 9, 0);
        assert_eq!(members(&fit(&longer).unwrap()), (false, true, true));
    }

    /// PLAT-87
    #[test]
    fn an_event_that_is_too_large_without_texts_is_refused() {
        let error = fit(&event(1, 1, 1, MAX_EVENT_BYTES)).unwrap_err();
        assert!(error.contains("262144"), "{error}");
        assert!(error.len() < 200, "{error}");
    }
}
