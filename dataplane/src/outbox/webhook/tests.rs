use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use minichat_config::tenant::HttpUrl;
use minichat_config::tenant::sink::{Batch, Format, SigningKey};
use minichat_config::{AllowPrivate, Secret};
use minichat_provider::ClientSettings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(0x0c33_a1f7));

/// Members in an order, and with spaces, that no serializer writes.
const USAGE: &str = r#"{"event_type": "usage_snapshot","dedupe_key":"k", "turn_id":"t-1","timestamp":"2026-02-28T15:30:07Z","x":1.50}"#;
const AUDIT: &str = r#"{"type":"turn","event_type":"turn_completed","turn_id":"t-2","timestamp":"2026-02-28T15:30:08Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#;

fn webhook(format: Format, auth: WebhookAuth, is_batch: bool) -> Webhook {
    Webhook {
        url: HttpUrl::parse("https://billing.example.com/hook/s3cret?key=s3cret").unwrap(),
        format,
        auth,
        timeout: Duration::from_secs(30),
        batch: is_batch.then_some(Batch {
            max_events: 100,
            max_wait: Duration::ZERO,
        }),
    }
}

fn delivery<'a>(webhook: &'a Webhook, events: &'a [Event<'a>]) -> Delivery<'a> {
    Delivery {
        tenant_id: TENANT,
        webhook,
        events,
        now: Timestamp::from_micros(1_614_265_330_999_999),
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

fn build(webhook: &Webhook, events: &[Event<'_>]) -> Result<(HeaderMap, Bytes), String> {
    let payloads = events.iter().map(|event| Payload::read(event.payload));
    let payloads: Vec<_> = payloads.collect::<Result<_, _>>()?;
    request::build(&delivery(webhook, events), &payloads)
}

fn plain(is_batch: bool) -> Webhook {
    webhook(Format::Json, WebhookAuth::None, is_batch)
}

const ONE: [Event<'static>; 1] = [Event {
    key: "aa/1",
    payload: USAGE,
}];
const TWO: [Event<'static>; 2] = [
    ONE[0],
    Event {
        key: "aa/2",
        payload: AUDIT,
    },
];

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// PLAT-43, QUOTA-97: byte for byte.
#[test]
fn one_event_is_sent_as_it_is_stored() {
    let (headers, body) = build(&plain(false), &ONE).unwrap();
    assert_eq!(body, USAGE);
    assert_eq!(text(&headers, "content-type"), "application/json");
    assert_eq!(text(&headers, "idempotency-key"), "aa/1");
    assert_eq!(text(&headers, "webhook-id"), "aa/1");
    assert_eq!(text(&headers, "webhook-timestamp"), "1614265330");
    assert!(text(&headers, "user-agent").starts_with("minichat/"));
    assert_eq!(text(&headers, "webhook-signature"), "");
    assert_eq!(text(&headers, "traceparent"), "");
    assert!(build(&plain(false), &TWO).is_err());
}

#[test]
fn a_batch_is_an_array_of_the_stored_events_in_their_order() {
    let (headers, body) = build(&plain(true), &TWO).unwrap();
    assert_eq!(body, format!("[{USAGE},{AUDIT}]"));
    // Of `aa/1`, a newline and `aa/2`, computed by another program.
    let sha256 = "ec4005be8db11715aceb141391f092607422b534415d894459233a3ff5031f5d";
    assert_eq!(text(&headers, "idempotency-key"), sha256);
    assert_eq!(
        text(&headers, "webhook-id"),
        text(&headers, "idempotency-key")
    );
    let (_, body) = build(&plain(true), &ONE).unwrap();
    assert_eq!(body, format!("[{USAGE}]"));
}

/// PLAT-43, Standard Webhooks: over the key, the time and exactly the bytes of the body.
#[test]
fn the_signature_covers_what_is_sent() {
    let keys = SigningKey::read_all("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    for (format, is_batch) in [
        (Format::Json, false),
        (Format::Json, true),
        (Format::CloudEvents, false),
        (Format::CloudEvents, true),
    ] {
        let webhook = webhook(format, WebhookAuth::Signature(keys.clone()), is_batch);
        let (headers, body) = build(&webhook, &ONE).unwrap();
        let id = text(&headers, "webhook-id");
        let expected = signature::header(&keys, id, 1_614_265_330, &body);
        assert_eq!(text(&headers, "webhook-signature"), expected);
    }
}

#[test]
fn a_credential_is_sent_as_it_is_and_never_printed() {
    let auth = WebhookAuth::Header {
        name: "X-Api-Key".to_owned(),
        value: Secret::new("Key s3cret"),
    };
    let (headers, _) = build(&webhook(Format::Json, auth, false), &ONE).unwrap();
    assert_eq!(text(&headers, "x-api-key"), "Key s3cret");
    assert_eq!(text(&headers, "webhook-signature"), "");
    assert!(!format!("{headers:?}").contains("s3cret"));
}

/// PLAT-43, `CloudEvents` 1.0: structured mode
#[test]
fn cloud_events_wrap_the_stored_event() {
    let one = webhook(Format::CloudEvents, WebhookAuth::None, false);
    let (headers, body) = build(&one, &ONE).unwrap();
    assert_eq!(
        text(&headers, "content-type"),
        "application/cloudevents+json"
    );
    let tenant = TENANT.to_string();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({
            "specversion": "1.0",
            "id": "aa/1",
            "source": format!("/minichat/tenants/{tenant}"),
            "type": "dev.minichat.usage.v1",
            "subject": "t-1",
            "time": "2026-02-28T15:30:07Z",
            "datacontenttype": "application/json",
            "data": serde_json::from_str::<Value>(USAGE).unwrap(),
        })
    );
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.ends_with(&format!("\"data\":{USAGE}}}")), "{body}");
    let batch = webhook(Format::CloudEvents, WebhookAuth::None, true);
    let (headers, body) = build(&batch, &TWO).unwrap();
    assert_eq!(
        text(&headers, "content-type"),
        "application/cloudevents-batch+json"
    );
    assert_eq!(text(&headers, "traceparent"), "");
    let events: Vec<Value> = serde_json::from_slice(&body).unwrap();
    assert_eq!(events[1]["id"], "aa/2");
    assert_eq!(events[1]["type"], "dev.minichat.audit.turn.v1");
    let trace = events[1]["traceparent"].as_str().unwrap();
    assert!(
        trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
        "{trace}"
    );
}

#[test]
fn every_kind_of_audit_event_has_a_type() {
    let one = webhook(Format::CloudEvents, WebhookAuth::None, false);
    for (kind, expected) in [
        ("turn", Some("dev.minichat.audit.turn.v1")),
        ("mutation", Some("dev.minichat.audit.mutation.v1")),
        ("delete", Some("dev.minichat.audit.delete.v1")),
        ("other", None),
    ] {
        let payload = json!({"type": kind, "event_type": "turn_x"}).to_string();
        let events = [Event {
            key: "k",
            payload: &payload,
        }];
        let found = build(&one, &events).ok().map(|(_, body)| {
            let event: Value = serde_json::from_slice(&body).unwrap();
            event["type"].as_str().unwrap().to_owned()
        });
        assert_eq!(found.as_deref(), expected);
    }
}

/// PLAT-166
#[test]
fn the_trace_of_the_request_goes_on() {
    let (headers, _) = build(&plain(false), &TWO[1..]).unwrap();
    let trace = text(&headers, "traceparent");
    assert!(
        trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
        "{trace}"
    );
    assert_eq!(trace.len(), 55);
}

/// QUOTA-95: permanent; the text does not quote the event.
#[tokio::test]
async fn an_event_that_cannot_be_read_is_rejected() {
    let webhook = plain(false);
    for payload in [
        "",
        "s3cret",
        "{\"s3cret\":",
        "[]",
        "{}",
        "{\"event_type\": s3cret}",
    ] {
        let events = [Event { key: "k", payload }];
        let client = ProviderClient::new(&ClientSettings::default());
        match deliver(&client, &delivery(&webhook, &events)).await {
            Answer::Reject(reason) => assert!(!reason.contains("s3cret"), "{reason}"),
            other => panic!("{payload}: {other:?}"),
        }
    }
}

/// A receiver that answers every request with `answer`.
async fn receiver(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"}") && stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read_to_end(&mut read).await;
            });
        }
    });
    port
}

async fn answer_to(payload: &str, port: u16, timeout: Duration) -> Answer {
    let webhook = Webhook {
        url: HttpUrl::parse(&format!("http://127.0.0.1:{port}/hook/s3cret?key=s3cret")).unwrap(),
        timeout,
        ..plain(false)
    };
    let mut settings = ClientSettings::default();
    settings.outbound.allow_private = AllowPrivate::everything();
    let events = [Event { key: "k", payload }];
    deliver(
        &ProviderClient::new(&settings),
        &delivery(&webhook, &events),
    )
    .await
}

fn head(status: u16, words: &str) -> String {
    let length = words.len();
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{words}"
    )
}

/// PLAT-41, D31
#[tokio::test]
async fn every_status_has_its_meaning() {
    for status in 200..=599 {
        let port = receiver(head(status, "")).await;
        let answer = answer_to(USAGE, port, Duration::from_secs(20)).await;
        match (status, &answer) {
            (200..=299, Answer::Ok) => {}
            (400 | 410 | 413 | 422, Answer::Reject(text)) | (_, Answer::Retry(text)) => {
                let is_permanent = matches!(status, 200..=299 | 400 | 410 | 413 | 422);
                assert_eq!(
                    is_permanent,
                    matches!(answer, Answer::Reject(_)),
                    "{status}"
                );
                let said = format!("the webhook at http://127.0.0.1:{port} answered {status}");
                assert!(text.starts_with(&said), "{text}");
                assert!(!text.contains("s3cret"), "{text}");
                assert_eq!(text.contains("redirect"), status / 100 == 3, "{text}");
            }
            _ => panic!("{status}: {answer:?}"),
        }
    }
}

/// PLAT-165: an event with text of a user may come back in the answer.
#[tokio::test]
async fn a_receiver_is_quoted_only_if_the_event_has_no_text_of_a_user() {
    let port = receiver(head(422, "no such plan")).await;
    let limit = Duration::from_secs(20);
    let Answer::Reject(text) = answer_to(USAGE, port, limit).await else {
        panic!("no rejection");
    };
    assert!(text.ends_with("; it says: no such plan"), "{text}");
    for member in ["prompt", "response", "attachments"] {
        let payload = json!({"event_type": "turn_completed", member: []}).to_string();
        let Answer::Reject(text) = answer_to(&payload, port, limit).await else {
            panic!("no rejection");
        };
        assert!(!text.contains("no such plan"), "{text}");
    }
}

/// PLAT-80: an attempt that takes too long is repeated.
#[tokio::test]
async fn a_receiver_that_does_not_answer_is_tried_again() {
    let port = receiver(String::new()).await;
    let answer = answer_to(USAGE, port, Duration::from_millis(50)).await;
    let Answer::Retry(text) = answer else {
        panic!("{answer:?}");
    };
    assert!(text.contains("did not answer in time"), "{text}");
}
