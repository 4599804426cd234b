//! Errors of providers, and in which words users see them (D48, D54).

use minichat_tests::on_each_database;
use minichat_tests::raw_provider::{answer, chat_stream, responses_stream, stream};

use super::{CHAT, End, Place, RESPONSES, VLLM};

const ESTIMATED: End = End::Failed("provider_error", "estimated");
const RELEASED: End = End::Failed("provider_error", "released");

/// Checks that a new turn ends as `end` with `message`.
async fn check(place: &Place, bytes: Vec<u8>, end: End, message: &str) -> anyhow::Result<()> {
    let name = String::from_utf8_lossy(&bytes).into_owned();
    let events = place.check(&name, bytes, "", end).await?;
    assert_eq!(events.only("error")?["message"], message, "{name}");
    Ok(())
}

on_each_database! {
    /// PLAT-113, TURN-22: errors inside the stream of chat completions.
    async fn errors_of_a_chat_stream_keep_the_providers_words(env) {
        let place = Place::new(&env, CHAT).await?;
        for frame in [
            r#"{"error":{"message":"no room","type":"server_error"}}"#,
            r#"{"error":"no room"}"#,
            r#"{"object":"error","message":"no room","type":"x"}"#,
            r#"{"choices":[{"delta":{"content":""},"finish_reason":"error","error":{"message":"no room"}}]}"#,
        ] {
            check(&place, chat_stream(&[frame]), ESTIMATED, "no room").await?;
        }
        for body in [
            "event: error\ndata: {\"error\":{\"message\":\"no room\"}}\n\n",
            "event: error\ndata: {\"message\":\"no room\"}\n\n",
            "event: error\ndata: no room\n\n",
            "error: {\"message\":\"no room\"}\n\n",
            "error: {\"error\":{\"message\":\"no room\"}}\n\n",
        ] {
            check(&place, stream(body), ESTIMATED, "no room").await?;
        }
        // A status before any other event is a refusal.
        let refused = r#"{"error":{"message":"no room","code":429}}"#;
        check(&place, chat_stream(&[refused]), RELEASED, "no room").await?;
        let overloaded = r#"{"error":{"message":"no room","type":"overloaded_error"}}"#;
        check(&place, chat_stream(&[overloaded]), RELEASED, "no room").await?;
    }

    /// The same for the Responses API.
    async fn errors_of_a_response_keep_the_providers_words(env) {
        for kind in [RESPONSES, VLLM] {
            let place = Place::new(&env, kind).await?;
            for (name, data) in [
                ("response.failed", r#"{"response":{"error":{"message":"no room"}}}"#),
                ("response.failed", r#"{"error":{"message":"no room"}}"#),
                ("error", r#"{"type":"error","message":"no room"}"#),
                ("error", "no room"),
                ("", r#"{"error":{"message":"no room"}}"#),
                ("", r#"{"object":"error","message":"no room"}"#),
                ("", r#"{"type":"error","error":{"message":"no room"}}"#),
            ] {
                let events = [(name, data)];
                check(&place, responses_stream(&events), ESTIMATED, "no room").await?;
            }
            check(&place, stream("error: {\"message\":\"no room\"}\n\n"), ESTIMATED, "no room").await?;
            place.stack.stop().await?;
        }
    }

    /// A finish reason may name a failure; an unknown one is a normal end.
    async fn a_finish_reason_may_be_a_failure(env) {
        let place = Place::new(&env, CHAT).await?;
        let own = "The provider reported a failure.";
        for reason in ["error", "abort", "network_error", "insufficient_system_resource"] {
            let frame = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
            check(&place, chat_stream(&[&frame]), ESTIMATED, own).await?;
            let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
            let actual = End::Failed("provider_error", "actual");
            check(&place, chat_stream(&[&frame, usage]), actual, own).await?;
        }
        for reason in ["eos", "stop_sequence", "tool_calls"] {
            let frame = format!(r#"{{"choices":[{{"delta":{{"content":"Hi"}},"finish_reason":"{reason}"}}]}}"#);
            place.check(reason, chat_stream(&[&frame]), "Hi", End::Done(None)).await?;
        }
    }

    /// D48, D54: users see the text of the protocol's error fields; for
    /// everything else, minichat's own.
    async fn only_documented_fields_reach_a_user(env) {
        let place = Place::new(&env, CHAT).await?;
        let json = "application/json";
        for body in [
            r#"{"error":{"message":"no room"}}"#,
            r#"{"error":"no room"}"#,
            r#"{"message":"no room","code":7}"#,
            r#"[{"error":{"message":"no room"}}]"#,
        ] {
            check(&place, answer(500, json, body), RELEASED, "no room").await?;
        }
        let fault = "The provider has an internal fault (HTTP 500).";
        for (content_type, body) in [
            ("text/html", "<html><body>secret of another service</body></html>"),
            ("text/plain", "secret of another service"),
            (json, r#"{"detail":"secret of another service"}"#),
            (json, r#""secret of another service""#),
            (json, r#"{"items":[{"message":"secret of another service"}]}"#),
            (json, r#"{"error":{"reason":"secret of another service"}}"#),
            ("text/plain", ""),
        ] {
            check(&place, answer(500, content_type, body), RELEASED, fault).await?;
        }
        for (status, message) in [
            (400, "The provider refused the request (HTTP 400)."),
            (401, "The provider does not accept the credential (HTTP 401)."),
            (404, "The provider does not know the model or the path (HTTP 404)."),
            (503, "The provider is overloaded or down (HTTP 503)."),
            (529, "The provider is overloaded or down (HTTP 529)."),
        ] {
            check(&place, answer(status, "text/plain", "no"), RELEASED, message).await?;
        }
        let page = answer(200, "text/html", "<html>secret of another service</html>");
        check(&place, page, ESTIMATED, "The provider's answer is not a stream of events (HTTP 200).").await?;
    }

    /// D54: a refusal that reports usage is charged.
    async fn a_refusal_with_usage_is_charged_by_it(env) {
        let place = Place::new(&env, CHAT).await?;
        let body = r#"{"error":{"message":"no room"},"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        let actual = End::Failed("provider_error", "actual");
        check(&place, answer(500, "application/json", body), actual, "no room").await?;
    }

    /// API-5: ids, hosts and accounts in any form.
    async fn ids_hosts_and_accounts_of_a_provider_are_masked(env) {
        let place = Place::new(&env, CHAT).await?;
        let host = place.provider.addr.to_string();
        for hidden in [
            "org-Ab3dEfGh1jKlMn0p", "proj_x9Y8z7W6v5U4", "req_011CSHoEeqs5C35K2UUqR7Fy", "123456789012",
            "0f8fad5b-d9cb-469f-a165-70867728950e", "my-res.openai.azure.com", "10.3.7.9:8000",
            "http://vllm:8000/v1", "billing@example.com", "acct-Q1w2E3r4", "2001:db8::7", host.as_str(),
        ] {
            let words = format!("not for {hidden} now");
            for bytes in [
                chat_stream(&[&format!(r#"{{"error":{{"message":"{words}"}}}}"#)]),
                answer(500, "application/json", &format!(r#"{{"message":"{words}"}}"#)),
            ] {
                let end = if bytes.starts_with(b"HTTP/1.1 200") { ESTIMATED } else { RELEASED };
                let events = place.check(hidden, bytes, "", end).await?;
                let shown = events.only("error")?["message"].as_str().unwrap_or_default().to_owned();
                assert!(shown.starts_with("not for [") && shown.ends_with("] now"), "{shown}");
            }
        }
    }

    /// PLAT-152: the maximum size of an event is configurable.
    async fn an_event_beyond_the_bound_ends_the_turn(env) {
        let settings = "MINICHAT_PROVIDER_HTTP_MAX_EVENT_BYTES=65536";
        let place = Place::with(&env, CHAT, settings, |_| ()).await?;
        let unreadable = "The provider's answer could not be read.";
        let frame = |bytes: usize| format!(
            r#"{{"choices":[{{"delta":{{"content":"{}"}},"finish_reason":"stop"}}]}}"#, "x".repeat(bytes));
        let long = "x".repeat(60_000);
        place.check("below", chat_stream(&[&frame(60_000)]), &long, End::Done(None)).await?;
        check(&place, chat_stream(&[&frame(70_000)]), ESTIMATED, unreadable).await?;
    }
}
