//! Calls of the storage: requests, faults of the provider, and what happens to
//! a body that is sent while it arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use minichat_config::AllowPrivate;
use minichat_config::outbound::Outbound;
use minichat_config::tenant::{ProviderKind, StorageApi};
use minichat_core::{AttachmentId, TenantId};
use minichat_provider::{
    BodyError, FileUpload, ProviderFileId, StorageCall, StorageError, VectorStoreId,
};
use minichat_scripted_provider::{Ending, Reading, RecordedRequest, Scenario};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::{Setup, client};

const FILE: FileUpload<'_> = FileUpload {
    filename: "chat_attachment.txt",
    content_type: "text/plain",
};

fn call(setup: &Setup) -> StorageCall<'_> {
    StorageCall {
        tenant: TenantId::random(),
        provider: &setup.provider,
        credential: Some(&setup.credential),
        expires_at: Instant::now() + Duration::from_secs(30),
    }
}

fn body(text: &'static str) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
}

async fn upload(setup: &Setup) -> Result<ProviderFileId, StorageError> {
    let body = body("hello");
    setup.client.upload_file(&call(setup), &FILE, body).await
}

fn file(id: &str) -> ProviderFileId {
    ProviderFileId::new(id).unwrap()
}

fn store(id: &str) -> VectorStoreId {
    VectorStoreId::new(id).unwrap()
}

fn lines(requests: &[RecordedRequest]) -> Vec<String> {
    let lines = requests
        .iter()
        .map(|it| format!("{} {}", it.method, it.path));
    lines.collect()
}

/// Does every call once.
async fn every_call(setup: &Setup) -> (ProviderFileId, VectorStoreId) {
    let attachment = AttachmentId::from(uuid::Uuid::from_u128(7));
    let (client, call) = (&setup.client, call(setup));
    let file = upload(setup).await.unwrap();
    let store = client.create_vector_store(&call).await.unwrap();
    let added = client.add_file(&call, &store, &file, attachment).await;
    added.unwrap();
    client.remove_file(&call, &store, &file).await.unwrap();
    client.delete_file(&call, &file).await.unwrap();
    client.delete_vector_store(&call, &store).await.unwrap();
    (file, store)
}

/// CONT-59
#[tokio::test]
async fn every_call_has_its_method_path_and_body() {
    let setup = Setup::responses().await;
    let (file, store) = every_call(&setup).await;
    let requests = setup.server.requests();
    let (file, store) = (file.as_str(), store.as_str());
    let expected = [
        "POST /v1/files".to_owned(),
        "POST /v1/vector_stores".to_owned(),
        format!("POST /v1/vector_stores/{store}/files"),
        format!("DELETE /v1/vector_stores/{store}/files/{file}"),
        format!("DELETE /v1/files/{file}"),
        format!("DELETE /v1/vector_stores/{store}"),
    ];
    assert_eq!(lines(&requests), expected);
    assert_eq!(
        requests[0].body,
        json!({
            "purpose": "assistants", "filename": "chat_attachment.txt",
            "content_type": "text/plain", "bytes": 5,
        })
    );
    assert_eq!(requests[1].body, json!({}));
    let attributes = json!({"attachment_id": "00000000-0000-0000-0000-000000000007"});
    assert_eq!(
        requests[2].body,
        json!({"file_id": file, "attributes": attributes})
    );
    for request in &requests {
        assert_eq!(
            request.headers["authorization"],
            "Bearer sk-test-0123456789"
        );
    }
    let nothing = (Vec::<String>::new(), Vec::<String>::new());
    assert_eq!(setup.server.stored(), nothing);
}

/// CONT-59, PLAT-112
#[tokio::test]
async fn calls_of_azure_have_other_paths_and_the_version() {
    let mut setup = Setup::responses().await;
    setup.provider.storage.as_mut().unwrap().api = StorageApi::Azure {
        api_version: "2025-04-01-preview".to_owned(),
    };
    let auth = setup.provider.auth.as_mut().unwrap();
    (auth.header, auth.prefix) = ("api-key".to_owned(), String::new());
    every_call(&setup).await;
    let requests = setup.server.requests();
    assert_eq!(requests.len(), 6);
    for request in requests {
        assert!(request.path.starts_with("/openai/"), "{}", request.path);
        let version = "?api-version=2025-04-01-preview";
        assert!(request.path.ends_with(version), "{}", request.path);
        assert_eq!(request.headers["api-key"], "sk-test-0123456789");
    }
}

#[tokio::test]
async fn a_large_file_arrives_byte_for_byte() {
    let setup = Setup::responses().await;
    let pieces: Vec<Bytes> = (0..400_u16)
        .map(|i| Bytes::from(vec![i.to_le_bytes()[0]; usize::from(i) * 50]))
        .collect();
    let whole = pieces.concat();
    let body = stream::iter(pieces).map(Ok);
    let id = setup.client.upload_file(&call(&setup), &FILE, body).await;
    let stored = setup.server.file(id.unwrap().as_str()).unwrap();
    assert!(stored == whole, "{} bytes of {}", stored.len(), whole.len());
}

/// The source is not asked for more than the connection has room for.
#[tokio::test]
async fn a_body_is_read_only_as_fast_as_the_provider_takes_it() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1600;
    let setup = Setup::responses().await;
    let held = Scenario {
        reading: Reading::Held,
        ..Scenario::default()
    };
    setup.server.push_scenario(held.for_path("/files"));
    let read = Arc::new(AtomicUsize::new(0));
    let (more, mut has_more) = mpsc::unbounded_channel();
    let counter = Arc::clone(&read);
    let body = stream::iter(0..PIECES).map(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let _ = more.send(());
        Ok(Bytes::from(vec![b'a'; PIECE]))
    });
    let call = call(&setup);
    let mut upload = std::pin::pin!(setup.client.upload_file(&call, &FILE, body));
    // Reads until the connection asks for nothing more for half a second.
    let idle = async {
        let pause = Duration::from_millis(500);
        while tokio::time::timeout(pause, has_more.recv()).await.is_ok() {}
    };
    tokio::select! {
        ended = &mut upload => panic!("{ended:?}"),
        () = idle => {}
    }
    // Half a megabyte, and what the system's sockets hold.
    let before = read.load(Ordering::SeqCst) * PIECE;
    assert!(before < 16 * 1024 * 1024, "{before} bytes were read");
    setup.server.release(1);
    let id = upload.await.unwrap();
    let stored = setup.server.file(id.as_str()).unwrap();
    assert_eq!(stored.len(), PIECE * PIECES);
}

/// CONT-63: the provider must not take what came so far for the whole file.
#[tokio::test]
async fn a_body_that_breaks_off_closes_the_connection_and_stores_nothing() {
    let setup = Setup::responses().await;
    let pieces = [
        Ok(Bytes::from_static(b"begun")),
        Err(BodyError::from("the limit passed")),
    ];
    let body = stream::iter(pieces);
    let error = setup.client.upload_file(&call(&setup), &FILE, body).await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, StorageError::Body(cause) if cause.to_string() == "the limit passed"),
        "{error:?}"
    );
    setup.server.wait_until(|it| it.connections_open == 0).await;
    assert_eq!(setup.server.stored().0, Vec::<String>::new());
    assert!(setup.server.requests().is_empty());
}

#[tokio::test]
async fn dropping_an_upload_closes_the_connection() {
    let setup = Setup::responses().await;
    let body = body("begun").chain(stream::pending());
    let call = call(&setup);
    let upload = setup.client.upload_file(&call, &FILE, body);
    {
        let mut upload = std::pin::pin!(upload);
        tokio::select! {
            ended = &mut upload => panic!("{ended:?}"),
            _ = setup.server.wait_until(|it| it.connections_open == 1) => {}
        }
    }
    setup.server.wait_until(|it| it.connections_open == 0).await;
    assert_eq!(setup.server.stored().0, Vec::<String>::new());
}

/// CONT-60, CONT-167
#[tokio::test]
async fn every_status_has_its_error_and_reason() {
    let setup = Setup::responses().await;
    for (status, reason) in [
        (500, "provider_5xx"),
        (503, "provider_5xx"),
        (504, "timeout"),
        (408, "timeout"),
        (429, "rate_limited"),
        (400, "provider_4xx"),
        (401, "provider_4xx"),
        (413, "provider_4xx"),
        (302, "provider_4xx"),
    ] {
        let scenario = Scenario::status(status, json!({"error": {"message": "no"}}));
        let scenario = scenario.for_path("/v1/").with_header("Retry-After", "7");
        setup.server.push_scenario(scenario.clone());
        let uploaded = upload(&setup).await.unwrap_err();
        setup.server.push_scenario(scenario);
        let deleted = setup
            .client
            .delete_file(&call(&setup), &file("file-1"))
            .await;
        for error in [uploaded, deleted.unwrap_err()] {
            assert_eq!(error.reason(), reason, "{status}: {error:?}");
            if let StorageError::RateLimited { retry_after } = error {
                assert_eq!(retry_after, Some(Duration::from_secs(7)));
            }
        }
    }
}

/// CONT-167
#[tokio::test]
async fn what_the_provider_does_not_know_counts_as_deleted() {
    let setup = Setup::responses().await;
    let (client, call) = (&setup.client, call(&setup));
    let (file, store) = (file("file-gone"), store("vs_gone"));
    client.remove_file(&call, &store, &file).await.unwrap();
    client.delete_file(&call, &file).await.unwrap();
    client.delete_vector_store(&call, &store).await.unwrap();
    let added = client.add_file(&call, &store, &file, AttachmentId::random());
    assert_eq!(added.await.unwrap_err().reason(), "provider_4xx");
}

/// CONT-39, PLAT-102
#[tokio::test]
async fn texts_of_errors_show_no_credential_id_or_address() {
    let setup = Setup::responses().await;
    let words = format!(
        "Bearer sk-test-0123456789 may not read file-abc123 of vs_9 at {}\nsee https://x.example {}",
        setup.server.addr,
        "and so on ".repeat(1000),
    );
    let scenario = Scenario::status(500, json!({"error": {"message": words}}));
    setup.server.push_scenario(scenario.for_path("/files"));
    let error = upload(&setup).await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        for secret in [
            "0123456789",
            "abc123",
            "vs_9",
            "127.0.0.1",
            "x.example",
            "\n",
        ] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("may not read") && text.len() < 400, "{text}");
    }
}

#[tokio::test]
async fn garbage_and_hostile_ids_are_unreadable_answers() {
    let setup = Setup::responses().await;
    let huge = json!({"id": "f".repeat(1024 * 1024)}).to_string();
    for answer in [
        "not json",
        "",
        "[]",
        "{}",
        r#"{"id": 7}"#,
        r#"{"id": null}"#,
        r#"{"id": ""}"#,
        r#"{"id": "file-1", "id": "file-2"}"#,
        r#"{"id": "x/../../files/other"}"#,
        r#"{"id": ".."}"#,
        r#"{"id": "a\r\nb"}"#,
        r#"{"id": "a%2e"}"#,
        &huge,
    ] {
        setup
            .server
            .push_scenario(Scenario::raw(answer).for_path("/files"));
        let error = upload(&setup).await.unwrap_err();
        assert!(matches!(error, StorageError::Unreadable(_)), "{error:?}");
        setup
            .server
            .push_scenario(Scenario::raw(answer).for_path("/vector_stores"));
        let error = setup.client.create_vector_store(&call(&setup)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, StorageError::Unreadable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_provider_that_hangs_is_cut_off_after_its_limit() {
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.first_byte = Duration::from_millis(200);
    let hanging = |reading, hold_before_head| Scenario {
        reading,
        hold_before_head,
        ..Scenario::default()
    };
    let endless = Scenario {
        ending: Ending::Hang,
        ..Scenario::raw("{")
    };
    for scenario in [
        hanging(Reading::Held, false),
        hanging(Reading::Whole, true),
        endless,
    ] {
        setup.server.push_scenario(scenario.for_path("/files"));
        // More than the connection has room for.
        let body = stream::iter(0..400).map(|_| Ok(Bytes::from(vec![b'a'; 64 * 1024])));
        let error = setup.client.upload_file(&call(&setup), &FILE, body).await;
        let error = error.unwrap_err();
        assert!(matches!(error, StorageError::Timeout), "{error:?}");
        setup.server.release(1);
        setup.server.wait_until(|it| it.connections_open == 0).await;
        setup.server.reset();
    }
}

/// The limit of a provider is none for the client that delivers the body.
#[tokio::test]
async fn a_slow_source_is_limited_by_the_call_alone() {
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.first_byte = Duration::from_millis(100);
    let (sender, receiver) = mpsc::channel(1);
    let body = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async {
        let piece = receiver.recv().await?;
        Some((Ok(piece), receiver))
    });
    let slow = async {
        for piece in ["a", "b", "c"] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            sender.send(Bytes::from(piece)).await.unwrap();
        }
        drop(sender);
    };
    let call = StorageCall {
        expires_at: Instant::now() + Duration::from_secs(20),
        ..call(&setup)
    };
    let (uploaded, ()) = tokio::join!(setup.client.upload_file(&call, &FILE, body), slow);
    let stored = setup.server.file(uploaded.unwrap().as_str());
    assert_eq!(stored.as_deref(), Some(&b"abc"[..]));

    let call = StorageCall {
        expires_at: Instant::now() + Duration::from_millis(300),
        ..call
    };
    let error = setup
        .client
        .upload_file(&call, &FILE, stream::pending())
        .await;
    assert!(matches!(error, Err(StorageError::Timeout)), "{error:?}");
}

/// A call that waits for the client's next bytes leaves its thread to others.
#[tokio::test]
async fn a_source_that_has_nothing_is_asked_once() {
    let setup = Setup::responses().await;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let body = stream::poll_fn(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Poll::<Option<Result<Bytes, BodyError>>>::Pending
    });
    let call = StorageCall {
        expires_at: Instant::now() + Duration::from_millis(300),
        ..call(&setup)
    };
    let error = setup.client.upload_file(&call, &FILE, body).await;
    assert!(matches!(error, Err(StorageError::Timeout)), "{error:?}");
    let polls = polls.load(Ordering::Relaxed);
    assert!((1..10).contains(&polls), "{polls} times");
}

/// A provider that reads slowly, but reads, is waited for.
#[tokio::test]
async fn a_provider_that_takes_a_little_in_time_is_waited_for() {
    let mut setup = Setup::responses().await;
    setup.provider.timeouts.first_byte = Duration::from_secs(2);
    let slow = Scenario {
        reading: Reading::Slow { pause_ms: 10 },
        ..Scenario::default()
    };
    setup.server.push_scenario(slow.for_path("/files"));
    let body = stream::iter(0..80).map(|_| Ok(Bytes::from(vec![b'a'; 64 * 1024])));
    let id = setup.client.upload_file(&call(&setup), &FILE, body).await;
    let stored = setup.server.file(id.unwrap().as_str()).unwrap();
    assert_eq!(stored.len(), 80 * 64 * 1024);
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error_of_the_transport() {
    let setup = Setup::responses().await;
    let dropped = Scenario {
        reading: Reading::Dropped { after_bytes: 1000 },
        ..Scenario::default()
    };
    let silent = Scenario {
        drop_connection: true,
        ..Scenario::default()
    };
    let cut = Scenario {
        ending: Ending::Cut,
        ..Scenario::raw(r#"{"id": "#)
    };
    for scenario in [dropped, silent, cut] {
        setup.server.push_scenario(scenario.for_path("/files"));
        let body = stream::iter(0..400).map(|_| Ok(Bytes::from(vec![b'a'; 64 * 1024])));
        let error = setup.client.upload_file(&call(&setup), &FILE, body).await;
        let error = error.unwrap_err();
        assert!(matches!(error, StorageError::Transport(_)), "{error:?}");
    }
    assert_eq!(setup.server.stored().0, Vec::<String>::new());
}

/// A provider may refuse a file before it has all of it. The rest is not sent,
/// and the connection is not used again.
#[tokio::test]
async fn an_early_refusal_is_told_and_ends_the_body() {
    let setup = Setup::responses().await;
    for (status, is_refusal) in [(413, true), (200, false)] {
        let early = Scenario {
            reading: Reading::Late,
            status,
            body: Some(json!({"id": "file-1"})),
            ..Scenario::default()
        };
        setup.server.push_scenario(early.for_path("/files"));
        let body = body("begun").chain(stream::pending());
        let error = setup.client.upload_file(&call(&setup), &FILE, body).await;
        match error.unwrap_err() {
            StorageError::Status4xx { status: 413, .. } => assert!(is_refusal),
            StorageError::Unreadable(_) => assert!(!is_refusal),
            other => panic!("{other:?}"),
        }
        setup.server.wait_until(|it| it.connections_open == 0).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_without_a_storage_or_a_credential() {
    let mut setup = Setup::responses().await;
    let without_key = StorageCall {
        credential: None,
        ..call(&setup)
    };
    let error = setup.client.create_vector_store(&without_key).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StorageError::Misconfigured(_)), "{error:?}");
    assert_eq!(error.reason(), "config");
    setup.provider.storage = None;
    let error = upload(&setup).await.unwrap_err();
    assert!(matches!(error, StorageError::NoStorage), "{error:?}");
    assert_eq!(setup.server.stats().connections_total, 0);
}

/// D48
#[tokio::test]
async fn addresses_that_may_not_be_called_are_refused() {
    let mut setup = Setup::new(ProviderKind::OpenAiResponses).await;
    setup.client = client(Outbound {
        allow_private: AllowPrivate::default(),
        ..Outbound::default()
    });
    let error = upload(&setup).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused(_)), "{error:?}");
    assert_eq!(setup.server.stats().connections_total, 0);
}

/// PLAT-105
#[tokio::test]
async fn connections_are_kept_and_a_closed_one_is_replaced() {
    let setup = Setup::responses().await;
    let (client, call) = (&setup.client, call(&setup));
    for _ in 0..5 {
        client.delete_file(&call, &file("file-1")).await.unwrap();
    }
    assert_eq!(setup.server.stats().connections_total, 1);
    // The kept connection breaks; the deletion is sent again.
    let silent = Scenario {
        drop_connection: true,
        ..Scenario::default()
    };
    setup.server.push_scenario(silent.for_path("/files"));
    client.delete_file(&call, &file("file-1")).await.unwrap();
    assert_eq!(setup.server.stats().connections_total, 2);
    // What creates something is never sent twice.
    let silent = Scenario {
        drop_connection: true,
        ..Scenario::default()
    };
    setup
        .server
        .push_scenario(silent.for_path("/vector_stores"));
    let error = client.create_vector_store(&call).await.unwrap_err();
    assert_eq!(error.reason(), "transport");
    assert_eq!(setup.server.stored().1, Vec::<String>::new());
}
