//! Internal faults in an open turn.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use minichat_metrics::catalogue::Family;
use minichat_metrics::{Label, Metrics, Recorder, RecordingMetrics};
use serde_json::json;
use uuid::Uuid;

use super::harness::{ALICE, Answer, Call, Harness, Provider};

/// Counts, and panics in the middle of a conversation.
struct Fragile(Arc<RecordingMetrics>);

impl Recorder for Fragile {
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64) {
        self.0.add(family, labels, increment);
    }

    fn shift(&self, family: Family, step: i64) {
        self.0.shift(family, step);
    }

    fn set(&self, family: Family, labels: &[Label<'_>], value: u64) {
        self.0.set(family, labels, value);
    }

    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64) {
        assert!(family != Family::TtftProviderMs, "the first delta");
        self.0.observe(family, labels, value);
    }
}

/// A provider that sends one word to its first caller.
fn one_word() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]).unwrap();
        let event = "event: response.output_text.delta\ndata: {\"delta\":\"word\"}\n\n";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(event.as_bytes()).unwrap();
        // Until the data plane closes the connection.
        let _ = connection.read(&mut [0; 1]);
    });
    port
}

/// Sends a message and reads its stream. The turn must have failed by an
/// internal fault. Returns the answer and the usage event.
async fn failed_by_us(harness: &Harness) -> (Answer, serde_json::Value) {
    let chat = harness.create_chat(ALICE).await;
    let request = Uuid::new_v4();
    let body = json!({"content": "hello", "request_id": request});
    let path = format!("/chats/{chat}/messages:stream");
    let answer = harness.send(Call::post(&path, &body)).await;
    let turn = Call::get(&format!("/chats/{chat}/turns/{request}"));
    let turn = harness.send(turn).await.ok();
    assert_eq!(turn.body["state"], "error", "{}", answer.text);
    assert_eq!(turn.body["error_code"], "internal_error");
    let (_, last) = answer.text.trim_end().rsplit_once("event: ").unwrap();
    assert!(
        last.starts_with("error\n") && last.contains("internal_error"),
        "{last}"
    );
    let messages = Call::get(&format!("/chats/{chat}/messages"));
    let messages = harness.send(messages).await.ok();
    assert_eq!(messages.body["items"].as_array().map(Vec::len), Some(1));
    let status = harness.send(Call::get("/quota/status")).await.ok();
    (answer, status.body)
}

/// TURN-17: the panic is caught, the turn is settled, and no stream stays open.
#[tokio::test]
async fn a_panic_in_a_conversation_fails_its_turn_and_nothing_else() {
    let recorded = Arc::new(RecordingMetrics::default());
    let metrics: Arc<dyn Metrics> = Arc::new(Fragile(Arc::clone(&recorded)));
    let provider = Provider {
        port: one_word(),
        key: None,
    };
    let harness = Harness::build("", metrics, &provider).await;
    let (answer, _) = failed_by_us(&harness).await;
    assert!(
        answer.text.starts_with("event: stream_started\n"),
        "{}",
        answer.text
    );
    let failed = ["llm", "premium", "internal_error"];
    assert_eq!(recorded.counter("stream_failed", &failed), 1);
    assert_eq!(recorded.counter_sum("stream_completed"), 0);
    assert_eq!(recorded.gauge("active_streams", &[]), 0);
    // The provider has received the request.
    assert_eq!(recorded.counter_sum("quota_commit"), 0);
}

/// TURN-15, TURN-40, QUOTA-60: a call that cannot be sent costs nothing.
#[tokio::test]
async fn a_fault_before_the_provider_is_asked_releases_the_reserve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let recorded = Arc::new(RecordingMetrics::default());
    let provider = Provider {
        port: listener.local_addr().unwrap().port(),
        // No header can contain it. Validation of manifests would refuse it.
        key: Some("a\nb"),
    };
    let harness = Harness::build("", recorded.clone(), &provider).await;
    let fresh = harness.send(Call::get("/quota/status")).await.ok();
    let (_, status) = failed_by_us(&harness).await;
    assert_eq!(status["tiers"], fresh.body["tiers"]);
    assert_eq!(recorded.counter_sum("stream_failed"), 1);
    // If a connection was made, nothing was sent on it.
    if let Ok((mut connection, _)) = listener.accept() {
        connection.set_nonblocking(false).unwrap();
        let patience = std::time::Duration::from_millis(100);
        connection.set_read_timeout(Some(patience)).unwrap();
        assert_eq!(connection.read(&mut [0; 1]).unwrap_or_default(), 0);
    }
}
