use http_body_util::BodyExt as _;
use minichat_core::stream::event::DeltaKind;
use minichat_core::stream::{StreamEvent, StreamStarted};
use minichat_core::{MessageId, RequestId};
use minichat_metrics::NoopMetrics;

use super::super::channel::{Sender, channel};
use super::*;

const PING_INTERVAL: Duration = Duration::from_secs(5);

fn relay() -> (Sender, Relay) {
    let started = StreamEvent::StreamStarted(StreamStarted {
        request_id: RequestId::random(),
        message_id: MessageId::random(),
        is_new_turn: true,
        thread_summary_applied: None,
    });
    let labels = Labels {
        metrics: Arc::new(NoopMetrics),
        provider: "main".into(),
        model: "std".into(),
    };
    let (sender, receiver) = channel(16, &started);
    let relay = Relay::new(
        receiver,
        Arc::default(),
        labels,
        PING_INTERVAL,
        HalfClose::default(),
    );
    (sender, relay)
}

/// The next frame, and how many seconds it took.
async fn frame(relay: &mut Relay) -> (String, u64) {
    let sent = Instant::now();
    let frame = relay.frame().await.unwrap().unwrap().into_data().unwrap();
    let text = String::from_utf8(frame.to_vec()).unwrap();
    (text, sent.elapsed().as_secs())
}

fn delta() -> StreamEvent<'static> {
    StreamEvent::Delta {
        kind: DeltaKind::Text,
        text: "a".into(),
    }
}

/// API-141, TURN-25
#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_pings_and_after_the_first_delta_by_comments() {
    let (sender, mut relay) = relay();
    assert!(
        frame(&mut relay)
            .await
            .0
            .starts_with("event: stream_started\n")
    );
    for _ in 0..2 {
        assert_eq!(
            frame(&mut relay).await,
            ("event: ping\ndata: {}\n\n".to_owned(), 5)
        );
    }
    sender.send(&delta()).await.unwrap();
    assert!(frame(&mut relay).await.0.starts_with("event: delta\n"));
    for _ in 0..2 {
        assert_eq!(frame(&mut relay).await, (":\n\n".to_owned(), 30));
    }
    tokio::time::advance(Duration::from_secs(29)).await;
    sender.send(&delta()).await.unwrap();
    assert!(frame(&mut relay).await.0.starts_with("event: delta\n"));
    assert_eq!(frame(&mut relay).await, (":\n\n".to_owned(), 30));
}

/// API-152: if the producer is gone without a terminal event, the client does
/// not wait forever.
#[tokio::test]
async fn a_stream_without_a_terminal_event_gets_one() {
    let (sender, mut relay) = relay();
    sender.send(&delta()).await.unwrap();
    drop(sender);
    let (text, _) = frame(&mut relay).await;
    assert!(
        text.contains("event: error\ndata: {\"code\":\"stream_interrupted\""),
        "{text}"
    );
    assert!(relay.frame().await.is_none());
}
