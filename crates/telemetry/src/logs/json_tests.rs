use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text that `log` writes.
fn lines_of(log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let layer = JsonLines::new("serve", move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
    let bytes = captured.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn one_line(log: impl FnOnce()) -> Value {
    let text = lines_of(log);
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// PLAT-163
#[test]
fn a_line_has_the_fields_of_event_and_spans_at_the_top_level() {
    let line = one_line(|| {
        let http = tracing::info_span!(
            "http",
            otel.kind = "server",
            trace_id = "4bf9",
            http_request_id = "r-1"
        );
        let _http = http.enter();
        let turn = tracing::info_span!(
            "turn",
            turn_id = tracing::field::Empty,
            selected_model = "gpt"
        );
        let _turn = turn.enter();
        turn.record("turn_id", "t-1");
        tracing::info!(
            target: "minichat",
            ttft_ms = 12,
            ratio = 0.5,
            ok = true,
            absent = None::<u64>,
            "stream \"ended\"\n"
        );
    });
    let timestamp = line["timestamp"].as_str().unwrap().to_owned();
    assert!(
        timestamp.ends_with('Z') && timestamp.len() == 27,
        "{timestamp}"
    );
    let expected = json!({
        "timestamp": timestamp,
        "level": "INFO",
        "target": "minichat",
        "message": "stream \"ended\"\n",
        "component": "serve",
        "trace_id": "4bf9",
        "http_request_id": "r-1",
        "turn_id": "t-1",
        "selected_model": "gpt",
        "ttft_ms": 12,
        "ratio": 0.5,
        "ok": true,
    });
    assert_eq!(line, expected);
}

#[test]
fn the_innermost_value_of_a_name_stands_once() {
    let text = lines_of(|| {
        let outer = tracing::info_span!("outer", status = "running", worker = "a");
        let _outer = outer.enter();
        let inner = tracing::info_span!("inner", worker = "b");
        let _inner = inner.enter();
        tracing::warn!(status = "error", "failed");
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["status"], &line["worker"]),
        (&json!("error"), &json!("b"))
    );
    assert_eq!(text.matches("\"status\":").count(), 1, "{text}");
    assert_eq!(text.matches("\"worker\":").count(), 1, "{text}");
}

#[test]
fn the_head_of_a_line_cannot_be_forged_by_a_field() {
    let text = lines_of(|| tracing::info!(level = "ERROR", component = "other", "hello"));
    assert!(text.starts_with("{\"timestamp\":\""), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["level"], &line["component"]),
        (&json!("INFO"), &json!("serve"))
    );
    assert_eq!(text.matches("\"level\":").count(), 1, "{text}");
}

#[test]
fn an_error_is_logged_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("the database is gone")]
    struct Outer(#[source] io::Error);

    let error = Outer(io::Error::other("broken pipe"));
    let line = one_line(|| tracing::error!(error = &error as &dyn std::error::Error, "no"));
    assert_eq!(line["error"], "the database is gone: broken pipe");
}

/// PLAT-163: the ids of a request are on every line inside it, whatever level
/// is logged.
#[test]
fn lines_inside_a_request_have_its_ids() {
    let tracer = crate::Tracer::without_export();
    let context = tracer.begin(None);
    let captured = Captured::default();
    let writer = captured.clone();
    let layer = JsonLines::new("serve", move || writer.clone());
    let only_errors = tracing_subscriber::filter::LevelFilter::ERROR;
    let subscriber = tracing_subscriber::registry().with(only_errors).with(layer);
    tracing::subscriber::with_default(subscriber, || {
        let span = crate::traces::http_span(context, "r-1");
        span.record("tenant_id", "t-1");
        span.in_scope(|| tracing::error!("lost"));
    });
    let line: Value = serde_json::from_slice(&captured.0.lock().unwrap()).unwrap();
    assert_eq!(line["trace_id"], context.trace_id());
    assert_eq!(line["span_id"], context.span_id());
    assert_eq!(line["http_request_id"], "r-1");
    assert_eq!(line["tenant_id"], "t-1");
    assert_eq!(line.get("user_id"), None);
}
