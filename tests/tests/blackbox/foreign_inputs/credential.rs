//! The credential is never repeated to clients (PLAT-102, PLAT-117).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::raw_provider::{answer, chat_stream, header, responses_stream, stream};
use serde_json::json;

use super::{CHAT, End, Place, RESPONSES, VLLM};

/// Keys whose form no list of prefixes contains.
const KEYS: [&str; 3] = [
    "0f3a9c1e5b2d4f60a7",
    "Zk9-q/L2+mN8=vB4",
    "battery horse staple",
];

fn with_key(header: &'static str, prefix: &'static str, key: &str) -> impl FnOnce(&mut Tenant) {
    let key = key.to_owned();
    move |tenant| {
        let auth = &mut tenant.spec()["providers"][0]["auth"];
        auth["header"] = json!(header);
        auth["prefix"] = json!(prefix);
        tenant.others[0]["stringData"]["api-key"] = json!(key);
    }
}

/// The ways in which a provider may repeat what it was sent.
fn echoes(sent: &str, key: &str) -> Vec<String> {
    vec![
        format!("Incorrect API key provided: {key}."),
        format!("Authorization was '{sent}'"),
        format!("{{\"nested\": {}}}", json!(key)),
        STANDARD.encode(key),
        STANDARD.encode(sent),
        URL_SAFE_NO_PAD.encode(key),
        format!("{}****{}", &key[..4], &key[key.len() - 4..]),
    ]
}

/// The key as programs write it into URLs, JSON and headers, each as a word.
fn forms(key: &str) -> Vec<String> {
    let json = json!(key).to_string();
    let json = json.trim_matches('"');
    let escaped = |escape: fn(u8) -> String| -> String {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let escape = |byte: u8| {
            let plain = is_plain(&byte).then(|| char::from(byte).to_string());
            plain.unwrap_or_else(|| escape(byte))
        };
        key.bytes().map(escape).collect()
    };
    vec![
        key.to_owned(),
        escaped(|byte| format!("%{byte:02X}")),
        escaped(|byte| format!("%{byte:02x}")),
        json.replace('/', "\\/"),
        json.to_owned(),
        STANDARD.encode(key),
        URL_SAFE_NO_PAD.encode(key),
    ]
}

/// Fails if `text` contains the key in any form.
fn check_hidden(text: &str, sent: &str, key: &str) {
    let forms = [
        key.to_owned(),
        STANDARD.encode(key),
        STANDARD.encode(sent),
        key[..6].to_owned(),
        key[key.len() - 6..].to_owned(),
    ];
    for form in forms {
        let form = form.trim_end_matches('=');
        assert!(!text.contains(form), "{form} in {text}");
    }
}

on_each_database! {
    /// Errors of every kind repeat the header that was sent.
    async fn an_error_does_not_repeat_the_credential(env) {
        for (header_name, prefix) in [("Authorization", "Bearer "), ("api-key", "")] {
            for key in KEYS {
                let place = Place::with(&env, CHAT, "", with_key(header_name, prefix, key)).await?;
                let sent = format!("{prefix}{key}");
                for echo in echoes(&sent, key) {
                    let error = json!({"error": {"message": echo}}).to_string();
                    for bytes in [
                        answer(401, "application/json", &error),
                        answer(401, "text/plain", &echo),
                        chat_stream(&[&error]),
                        stream(&format!("error: {error}\n\n")),
                        stream(&format!("event: error\ndata: {echo}\n\n")),
                    ] {
                        let is_refusal = bytes.starts_with(b"HTTP/1.1 401");
                        let method = if is_refusal { "released" } else { "estimated" };
                        let end = End::Failed("provider_error", method);
                        let expected = sent.clone();
                        place.provider.push_with(move |head| {
                            assert_eq!(header(head, header_name), Some(expected.as_str()));
                            bytes
                        });
                        let events = place.check_next("", end).await?;
                        check_hidden(&format!("{events:?}"), &sent, key);
                    }
                }
                check_rows(&place, &sent, key).await?;
                place.stack.stop().await?;
            }
        }
    }

    /// Whatever a form is wrapped in. They are so short that nothing but the mask
    /// takes them for something secret.
    async fn an_error_does_not_repeat_the_credential_in_the_form_of_another_place(env) {
        for key in [r#"q7/x"z"#, r#"Zk-q/"Lmn"#] {
            let place = Place::with(&env, CHAT, "", with_key("api-key", "", key)).await?;
            for form in forms(key) {
                let words = format!("wrong: {form} here");
                let error = json!({"error": {"message": words}}).to_string();
                for bytes in [answer(401, "application/json", &error), chat_stream(&[&error])] {
                    let is_refusal = bytes.starts_with(b"HTTP/1.1 401");
                    let method = if is_refusal { "released" } else { "estimated" };
                    place.provider.push(bytes);
                    let end = End::Failed("provider_error", method);
                    let events = place.check_next("", end).await?;
                    let error = events.only("error")?;
                    assert_eq!(error["message"], "wrong: [credential] here", "{form}");
                }
            }
            place.stack.stop().await?;
        }
    }

    /// Wherever an error is cut: it is masked before.
    async fn no_cut_through_an_error_leaves_a_part_of_the_credential(env) {
        let key = "staple-battery-horse-correct";
        let place = Place::with(&env, CHAT, "", with_key("Authorization", "Bearer ", key)).await?;
        for kept in [200, 1000] {
            for before in [kept - 1, kept - 6, kept - 15, kept - key.len() + 1] {
                let words = format!("{} {key} is wrong", "word ".repeat(kept)[..before - 1].trim_end());
                let error = json!({"error": {"message": words}}).to_string();
                // Plain text is cut earlier than a message.
                let data = if kept == 200 { words } else { error };
                let bytes = stream(&format!("event: error\ndata: {data}\n\n"));
                place.provider.push_with(move |_| bytes);
                let events = place.check_next("", End::Failed("provider_error", "estimated")).await?;
                let shown = format!("{events:?}");
                assert!(shown.contains("word word"), "{shown}");
                assert!(!shown.contains("stap"), "{shown}");
            }
        }
        place.stack.stop().await?;
    }

    /// The answer repeats it, cut anywhere; so does an id.
    async fn an_answer_does_not_repeat_the_credential(env) {
        for kind in [CHAT, RESPONSES, VLLM] {
            let key = KEYS[1];
            let place = Place::with(&env, kind, "", with_key("Authorization", "Bearer ", key)).await?;
            let cuts = [0, 1, 5, key.len()].map(|cut| (key.to_owned(), cut));
            let others = forms(key).into_iter().map(|form| (form, 5));
            for (form, cut) in cuts.into_iter().chain(others) {
                let pieces = ["your key is ", &form[..cut], &form[cut..], ", keep it"];
                let bytes = if kind == CHAT {
                    let frames: Vec<String> = pieces.iter()
                        .map(|piece| json!({"id": key, "choices": [{"delta": {"content": piece}}]}).to_string())
                        .chain([r#"{"choices":[{"finish_reason":"stop"}]}"#.to_owned()])
                        .collect();
                    chat_stream(&frames.iter().map(String::as_str).collect::<Vec<_>>())
                } else {
                    let deltas: Vec<String> = pieces.iter().map(|piece| json!({"delta": piece}).to_string()).collect();
                    let end = json!({"response": {"id": key, "output": [{"type": "message",
                        "content": [{"type": "output_text", "text": pieces.concat()}]}]}}).to_string();
                    let mut events: Vec<(&str, &str)> = deltas.iter()
                        .map(|delta| ("response.output_text.delta", delta.as_str())).collect();
                    events.push(("response.completed", &end));
                    responses_stream(&events)
                };
                let text = "your key is [credential], keep it";
                let events = place.check("echo", bytes, text, End::Done(None)).await?;
                check_hidden(&format!("{events:?}"), key, key);
            }
            check_rows(&place, key, key).await?;
            place.stack.stop().await?;
        }
    }
}

/// It is not stored either.
async fn check_rows(place: &Place, sent: &str, key: &str) -> anyhow::Result<()> {
    for query in [
        "SELECT provider_response_id, error_detail FROM chat_turns",
        "SELECT content, provider_response_id FROM messages",
        "SELECT payload FROM outbox_messages",
    ] {
        let rows = place.stack.database.query(query).await?;
        check_hidden(&format!("{rows:?}"), sent, key);
    }
    Ok(())
}
