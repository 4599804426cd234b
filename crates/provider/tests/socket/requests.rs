//! What is sent to providers (PLAT-101, PLAT-102, PLAT-106 to PLAT-111).

use minichat_config::tenant::{ApiParams, ProviderKind};
use minichat_provider::{FailureKind, InputMessage, Role};
use serde_json::{Value, json};

use crate::support::{Setup, read};

async fn sent_body(setup: &Setup) -> Value {
    sent_body_with(setup, &[]).await
}

/// The body of a request whose newest message has images.
async fn sent_body_with(setup: &Setup, image_file_ids: &[&str]) -> Value {
    let image_file_ids: Vec<String> = image_file_ids.iter().map(|&id| id.to_owned()).collect();
    let said = |role, text| InputMessage {
        role,
        text,
        image_file_ids: &[],
    };
    let messages = [
        said(Role::User, "Hi"),
        said(Role::Assistant, "Hello"),
        InputMessage {
            image_file_ids: &image_file_ids,
            ..said(Role::User, "PING")
        },
    ];
    let mut stream = setup.client.open(&setup.call(&messages)).await.unwrap();
    read(&mut stream).await;
    setup.server.requests().pop().unwrap().body
}

fn all_params() -> ApiParams {
    ApiParams {
        temperature: Some(0.7),
        top_p: Some(1.0),
        frequency_penalty: 0.5,
        presence_penalty: 0.0,
        stop: vec!["END".to_owned()],
        extra_body: Some(json!({"seed": 1})),
        reasoning_effort: Some("low".to_owned()),
    }
}

const TENANT: &str = "00000000-0000-0000-0000-000000000001";
const USER: &str = "00000000-0000-0000-0000-000000000002";
const CHAT: &str = "00000000-0000-0000-0000-000000000003";

/// CONT-31, CONT-32, PLAT-108
#[tokio::test]
async fn the_responses_body_has_exactly_the_fields_of_the_rule() {
    let mut setup = Setup::responses().await;
    setup.params = all_params();
    let expected = json!({
        "model": "gpt-5", "stream": true, "store": false, "previous_response_id": null,
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "PING"}]},
        ],
        "max_output_tokens": 256, "max_tool_calls": 2, "user": "user-hash",
        "metadata": {"tenant_id": TENANT, "user_id": USER, "chat_id": CHAT,
            "request_type": "chat", "feature": "none"},
        "temperature": 0.7, "top_p": 1.0, "extra_body": {"seed": 1}, "reasoning": {"effort": "low"},
    });
    assert_eq!(sent_body(&setup).await, expected);
}

/// PLAT-108, PLAT-109
#[tokio::test]
async fn absent_parameters_and_refused_metadata_are_not_sent() {
    let mut setup = Setup::responses().await;
    setup.provider.send_metadata = false;
    let body = sent_body(&setup).await;
    for field in [
        "metadata",
        "temperature",
        "top_p",
        "stop",
        "reasoning",
        "frequency_penalty",
    ] {
        assert!(body.get(field).is_none(), "{field} in {body}");
    }
}

/// CONT-36
#[tokio::test]
async fn the_vllm_body_has_plain_assistant_text_and_fewer_fields() {
    let mut setup = Setup::new(ProviderKind::VllmResponses).await;
    setup.params = all_params();
    let expected = json!({
        "model": "gpt-5", "stream": true, "store": false, "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "message", "role": "assistant", "content": "Hello"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "PING"}]},
        ],
        "max_output_tokens": 256, "user": "user-hash",
        "temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.5, "stop": ["END"],
        "extra_body": {"seed": 1}, "reasoning": {"effort": "low"},
    });
    assert_eq!(sent_body(&setup).await, expected);
}

/// CONT-35
#[tokio::test]
async fn the_chat_completions_body_has_plain_messages_and_asks_for_usage() {
    let mut setup = Setup::new(ProviderKind::OpenAiChatCompletions).await;
    setup.params = all_params();
    let expected = json!({
        "model": "gpt-5", "stream": true, "stream_options": {"include_usage": true},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "PING"},
        ],
        "max_completion_tokens": 256, "user": "user-hash",
        "temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.5, "stop": ["END"],
        "reasoning_effort": "low",
    });
    assert_eq!(sent_body(&setup).await, expected);
}

/// CONT-2, CONT-31, CONT-35, CONT-36, CONT-37: images follow the text of the newest
/// message in their order, and change nothing else.
#[tokio::test]
async fn images_are_parts_of_the_newest_message() {
    for (kind, conversation, text, image) in [
        (
            ProviderKind::OpenAiResponses,
            "input",
            json!({"type": "input_text", "text": "PING"}),
            (|id: &str| json!({"type": "input_image", "file_id": id})) as fn(&str) -> Value,
        ),
        (
            ProviderKind::VllmResponses,
            "input",
            json!({"type": "input_text", "text": "PING"}),
            |id| json!({"type": "input_image", "file_id": id}),
        ),
        (
            ProviderKind::OpenAiChatCompletions,
            "messages",
            json!({"type": "text", "text": "PING"}),
            |id| json!({"type": "image_url", "image_url": {"url": id}}),
        ),
    ] {
        let setup = Setup::new(kind).await;
        let mut expected = sent_body(&setup).await;
        let messages = expected[conversation].as_array_mut().unwrap();
        let newest = messages.last_mut().unwrap();
        newest["content"] = json!([text, image("file-2"), image("file-1")]);
        let body = sent_body_with(&setup, &["file-2", "file-1"]).await;
        assert_eq!(body, expected, "{kind:?}");
    }
}

/// CONT-30, PLAT-101, PLAT-102, PLAT-106
#[tokio::test]
async fn path_and_headers_follow_the_provider() {
    let mut setup = Setup::responses().await;
    setup.provider.api_path = "/openai/deployments/{model}/responses?api-version=1".to_owned();
    setup.model = "my model";
    sent_body(&setup).await;
    let request = setup.server.requests().pop().unwrap();
    assert_eq!(
        request.path,
        "/openai/deployments/my%20model/responses?api-version=1"
    );
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    assert_eq!(header("authorization"), Some("Bearer sk-test-0123456789"));
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("accept"), Some("text/event-stream"));
    assert_eq!(header("x-client-request-id"), Some("request-1"));
    let host = format!("127.0.0.1:{}", setup.provider.port);
    assert_eq!(header("host"), Some(host.as_str()));
}

/// QUOTA-61
#[tokio::test]
async fn a_missing_credential_sends_nothing() {
    let setup = Setup::responses().await;
    let mut call = setup.call(&[]);
    call.credential = None;
    let failure = setup.client.open(&call).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Misconfigured);
    assert!(!setup.started.get());
    assert_eq!(setup.server.stats().answers_started, 0);
}
