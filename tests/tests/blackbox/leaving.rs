//! Clients that send more bytes behind their request and then disconnect.

use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::books::check_balanced;
use minichat_tests::client::Api;
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::raw_client::{Caller, RawClient};
use minichat_tests::scripted_provider::{Ending, Scenario};
use serde_json::json;
use uuid::Uuid;

/// Maximum time from the client's disconnect until the provider's stream is
/// closed.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// The routes that open a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    Send,
    Retry,
    Edit,
}

/// What the client sends behind the part of the request that the route reads,
/// while the answer streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Surplus {
    Nothing,
    LineBreak,
    /// A body of the announced length, which only a retry ignores.
    Body,
    ChunkedBody,
    /// The body is announced but never sent.
    NoBody,
    Request,
    ManyRequests,
    Garbage,
    /// More than the kernel buffers.
    Flood,
}

/// How a client ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Close,
    Reset,
}

const SURPLUSES: [Surplus; 9] = [
    Surplus::Nothing,
    Surplus::LineBreak,
    Surplus::Body,
    Surplus::ChunkedBody,
    Surplus::NoBody,
    Surplus::Request,
    Surplus::ManyRequests,
    Surplus::Garbage,
    Surplus::Flood,
];

/// Every combination.
fn cases() -> impl Iterator<Item = (Route, Surplus)> {
    let routes = [Route::Send, Route::Retry, Route::Edit];
    let all = routes
        .into_iter()
        .flat_map(|route| SURPLUSES.map(|surplus| (route, surplus)));
    all.filter(|(route, surplus)| {
        let is_body = matches!(
            surplus,
            Surplus::Body | Surplus::ChunkedBody | Surplus::NoBody
        );
        *route == Route::Retry || !is_body
    })
}

/// A chat and its user.
struct Talk {
    caller: Caller,
    user: Api,
    chat: String,
}

/// A connection with a streaming answer, after the surplus was sent.
struct Stream {
    client: RawClient,
    request: String,
}

impl Talk {
    async fn begin(scene: &Scene) -> anyhow::Result<Self> {
        let caller = Caller {
            tenant: scene.tenant.id,
            user: Uuid::new_v4(),
        };
        let user = scene.stack.caller(&scene.tenant, caller.user)?;
        let chat = user.create_chat(Some("std")).await?;
        Ok(Self { caller, user, chat })
    }

    async fn open(&self, scene: &Scene, route: Route, surplus: Surplus) -> anyhow::Result<Stream> {
        let text = self.request(route, surplus).await?;
        scene.provider.reset();
        scene.provider.push_scenario(Scenario {
            hold_before_end: true,
            ..Scenario::deltas(&["part"], Ending::Completed)
        });
        let mut client = RawClient::connect(scene.stack.app_addr()).await?;
        client.write(&text).await?;
        client.read_to("\"request_id\":\"").await?;
        client.read_to("event: delta").await?;
        client.read_to("\r\n").await?;
        client.write(&self.surplus(surplus)).await?;
        let text = client.text();
        let (_, request) = text.split_once("\"request_id\":\"").context("an id")?;
        let request = request.split('"').next().unwrap_or_default().to_owned();
        Ok(Stream { client, request })
    }

    /// The bytes to send before the answer begins.
    async fn request(&self, route: Route, surplus: Surplus) -> anyhow::Result<String> {
        let (chat, caller) = (&self.chat, &self.caller);
        if route == Route::Send {
            let path = format!("/chats/{chat}/messages:stream");
            return Ok(caller.request("POST", &path, r#"{"content":"hello"}"#));
        }
        let events = self.user.say(chat, "PING").await?;
        let started = events.only("stream_started")?;
        let turn = started["request_id"].as_str().context("an id")?;
        let path = format!("/chats/{chat}/turns/{turn}");
        Ok(match route {
            Route::Edit => caller.request("PATCH", &path, r#"{"content":"hello"}"#),
            Route::Send | Route::Retry => {
                let framing = match surplus {
                    Surplus::Body | Surplus::NoBody => "content-length: 5\r\n",
                    Surplus::ChunkedBody => "transfer-encoding: chunked\r\n",
                    _ => "",
                };
                let head = caller.head("POST", &format!("{path}/retry"), framing);
                format!("{head}\r\n")
            }
        })
    }

    fn surplus(&self, surplus: Surplus) -> String {
        let request = format!("{}\r\n", self.caller.head("GET", "/models", ""));
        match surplus {
            Surplus::Nothing | Surplus::NoBody => String::new(),
            Surplus::LineBreak => "\r\n".to_owned(),
            Surplus::Body => "hello".to_owned(),
            Surplus::ChunkedBody => "5\r\nhello\r\n0\r\n\r\n".to_owned(),
            Surplus::Request => request,
            Surplus::ManyRequests => request.repeat(100),
            Surplus::Garbage => "\0what is this\n".to_owned(),
            Surplus::Flood => "x".repeat(16 << 20),
        }
    }
}

on_each_database! {
    /// API-153, TURN-47: the provider is silent, so no write could fail.
    async fn leaving_is_noticed_whatever_was_sent(env) {
        let scene = env.scene().await?;
        for (route, surplus) in cases() {
            for end in [End::Close, End::Reset] {
                let case = format!("{route:?}, {surplus:?}, {end:?}");
                let talk = Talk::begin(&scene).await?;
                let Stream { client, request } = talk.open(&scene, route, surplus).await.with_context(|| case.clone())?;
                match end {
                    End::Close => drop(client),
                    End::Reset => client.reset()?,
                }
                let aborted = scene.provider.wait_until(|stats| stats.answers_aborted == 1);
                tokio::time::timeout(ABORT_LIMIT, aborted).await.with_context(|| case.clone())?;
                let cancelled = async || Ok(talk.user.turn(&talk.chat, &request).await?["state"] == "cancelled");
                scene.stack.eventually(&case, cancelled).await?;
            }
        }
        check_balanced(scene.database()).await?;
    }

    /// RFC 9112 section 9.6: a client that closes only its sending half waits
    /// for the answer.
    async fn a_client_that_closes_half_gets_its_answer(env) {
        let scene = env.scene().await?;
        for (route, surplus) in cases() {
            let case = format!("{route:?}, {surplus:?}");
            let talk = Talk::begin(&scene).await?;
            let Stream { mut client, request } = talk.open(&scene, route, surplus).await.with_context(|| case.clone())?;
            client.close_half().await?;
            // The server has noticed it and sent a comment.
            client.read_to(":\n\n").await.with_context(|| case.clone())?;
            assert_eq!(talk.user.turn(&talk.chat, &request).await?["state"], "running", "{case}");
            scene.provider.release(1);
            client.read_to("event: done").await.with_context(|| case.clone())?;
            client.read_to("\r\n0\r\n\r\n").await.with_context(|| case.clone())?;
            let text = client.read_to_end().await.with_context(|| case.clone())?;
            assert_eq!(talk.user.turn(&talk.chat, &request).await?["state"], "done", "{case}");
            // Its further requests are answered, unless there were too many
            // bytes.
            let answers = text.matches("HTTP/1.1 200 OK").count();
            let expected = match surplus {
                Surplus::Request => 2,
                Surplus::ManyRequests => 101,
                _ => 1,
            };
            assert_eq!(answers, expected, "{case}");
        }
        let scrape = scene.stack.scrape().await?;
        assert_eq!(scrape.count("mini_chat_stream_disconnected_total", &[])?, 0);
        check_balanced(scene.database()).await?;
    }

    /// API-141: a client that has closed half is still noticed when it
    /// disconnects.
    async fn whoever_has_closed_half_can_still_leave(env) {
        let scene = env.scene().await?;
        let talk = Talk::begin(&scene).await?;
        let Stream { mut client, request } = talk.open(&scene, Route::Send, Surplus::Nothing).await?;
        client.close_half().await?;
        client.read_to(":\n\n").await?;
        client.reset()?;
        let aborted = scene.provider.wait_until(|stats| stats.answers_aborted == 1);
        tokio::time::timeout(ABORT_LIMIT, aborted).await?;
        let cancelled = async || Ok(talk.user.turn(&talk.chat, &request).await?["state"] == "cancelled");
        scene.stack.eventually("cancelled", cancelled).await?;
    }

    /// Every answer that is not a stream, for clients that closed their sending
    /// half before the request was handled.
    async fn a_half_closed_client_gets_answers_that_are_no_streams(env) {
        let scene = env.scene().await?;
        let talk = Talk::begin(&scene).await?;
        let caller = &talk.caller;
        let chat = format!("/chats/{}", talk.chat);
        let title = json!({"title": "a"}).to_string();
        for (request, status) in [
            (format!("{}\r\n", caller.head("GET", "/models", "")), "200 OK"),
            (format!("{}\r\n", caller.head("GET", &chat, "")), "200 OK"),
            (caller.request("PATCH", &chat, &title), "200 OK"),
            (caller.request("POST", "/chats", "{}"), "201 Created"),
            (format!("{}\r\n", caller.head("DELETE", &chat, "")), "204 No Content"),
            (format!("{}\r\n", caller.head("GET", "/nothing", "")), "404 Not Found"),
        ] {
            let mut client = RawClient::connect(scene.stack.app_addr()).await?;
            client.write(&request).await?;
            client.close_half().await?;
            let text = client.read_to_end().await?;
            assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}\n{text}");
        }
    }
}
