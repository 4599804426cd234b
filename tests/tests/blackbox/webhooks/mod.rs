//! Usage and audit events on their way to webhooks.

mod answers;
mod contents;
mod ways;

use anyhow::Context as _;
use minichat_tests::client::Api;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::webhook_receiver::{Delivery, WebhookReceiver};
use serde_json::{Value, json};

/// Where the sinks of these tests send.
const USAGE: &str = "/usage";
const AUDIT: &str = "/audit";

/// A tenant whose events of both kinds go to `receiver`; `options` are further
/// fields of both webhooks.
async fn scene(env: &Env, receiver: &WebhookReceiver, options: &Value) -> anyhow::Result<Scene> {
    env.scene_with(|tenant| {
        tenant
            .with_webhook("usageSink", &webhook(&receiver.url(USAGE), options))
            .with_webhook("auditSink", &webhook(&receiver.url(AUDIT), options))
    })
    .await
}

fn webhook(url: &str, options: &Value) -> Value {
    let mut webhook = json!({"url": url});
    for (name, value) in options.as_object().into_iter().flatten() {
        webhook[name] = value.clone();
    }
    webhook
}

/// Sends `count` messages of one user one after the other. Returns the ids of
/// the turns' requests.
async fn turns(user: &Api, count: usize) -> anyhow::Result<Vec<String>> {
    let chat = user.create_chat(Some("std")).await?;
    let mut ids = Vec::new();
    for _ in 0..count {
        let events = user.say(&chat, "PING").await?;
        let started = events.only("stream_started")?;
        ids.push(started["request_id"].as_str().context("no id")?.to_owned());
    }
    Ok(ids)
}

/// `request_id` of all events of `deliveries`, in their order.
fn request_ids(deliveries: &[Delivery]) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for delivery in deliveries {
        for event in delivery.events()? {
            ids.push(event["request_id"].as_str().context("no id")?.to_owned());
        }
    }
    Ok(ids)
}
