//! Deliveries of real events to a receiver that is made of public libraries:
//! `standardwebhooks` verifies the signatures, `cloudevents` reads the events.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use minichat_tests::child::python;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The path of a Python that has the libraries; `cargo xtask test` installs it.
const PYTHON: &str = "MINICHAT_TEST_WEBHOOKS_PYTHON";

const RECEIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/webhooks/receiver.py");

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Receiver {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Receiver {
    async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(python(PYTHON)?)
            .args([RECEIVER, SECRET])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let port = lines.next_line().await?.context("no port")?.parse()?;
        Ok(Self {
            port,
            lines,
            _child: child,
        })
    }

    /// What the receiver says about its next request.
    async fn next(&mut self) -> anyhow::Result<Value> {
        let line = self
            .lines
            .next_line()
            .await?
            .context("the receiver ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// The events of the next requests until there are `count`.
    async fn events(&mut self, count: usize) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        while events.len() < count {
            let line = self.next().await?;
            ensure!(line["error"].is_null(), "{line}");
            events.extend(line["events"].as_array().cloned().unwrap_or_default());
        }
        Ok(events)
    }

    /// A tenant whose usage events go to the receiver, signed with `secrets`.
    fn tenant(&self, provider: &ScriptedProvider, secrets: &str, options: &Value) -> Tenant {
        let mut webhook = json!({
            "url": format!("http://127.0.0.1:{}/hook", self.port),
            "signingSecretRef": {"name": "signing", "key": "value"},
        });
        for (name, value) in options.as_object().into_iter().flatten() {
            webhook[name] = value.clone();
        }
        Tenant::new("acme", provider.addr)
            .with_webhook("usageSink", &webhook)
            .with_webhook("auditSink", &webhook)
            .with_secret("signing", secrets)
    }
}

on_each_database! {
    /// Standard Webhooks 1.0, CloudEvents 1.0, in each format, alone and in batches.
    async fn public_libraries_verify_and_read_every_request(env) {
        for (format, batch) in [
            ("Json", Value::Null),
            ("CloudEvents", Value::Null),
            ("Json", json!({"maxEvents": 10, "maxSeconds": 0})),
            ("CloudEvents", json!({"maxEvents": 10, "maxSeconds": 0})),
        ] {
            let mut receiver = Receiver::start().await?;
            let provider = ScriptedProvider::start().await?;
            let mut options = json!({"format": format});
            if !batch.is_null() {
                options["batch"] = batch;
            }
            let another = env.another().await?;
            let tenant = receiver.tenant(&provider, &format!("{OTHER}\n{SECRET}"), &options);
            let stack = another.serve(&[&tenant]).await?;
            let user = stack.new_user(&tenant)?;
            let chat = user.create_chat(Some("std")).await?;
            for content in ["PING", "grüße 🦀", "ERROR"] {
                user.say(&chat, content).await?;
            }
            let events = receiver.events(6).await?;
            for event in &events {
                if format == "Json" {
                    assert_eq!(event["tenant_id"], tenant.id.to_string());
                    continue;
                }
                assert_eq!(event["specversion"], "1.0");
                assert_eq!(event["source"], format!("/minichat/tenants/{}", tenant.id));
                assert_eq!(event["subject"], event["data"]["turn_id"]);
                let time = event["time"].as_str().unwrap_or_default();
                let stamp = event["data"]["timestamp"].as_str().unwrap_or_default();
                assert_eq!(time.split('.').next(), stamp.trim_end_matches('Z').split('.').next());
            }
            let of_kind = |kind: &str| events.iter().filter(|it| it["type"] == kind).count();
            if format == "CloudEvents" {
                assert_eq!(of_kind("dev.minichat.usage.v1"), 3);
                assert_eq!(of_kind("dev.minichat.audit.turn.v1"), 3);
            }
            stack.stop().await?;
            another.database.remove().await?;
        }
    }

    /// A receiver that does not know the secret refuses, and the event is kept.
    async fn public_libraries_refuse_another_secret(env) {
        let mut receiver = Receiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = receiver.tenant(&provider, OTHER, &json!({}));
        let stack = env.serve(&[&tenant]).await?;
        let user = stack.new_user(&tenant)?;
        let chat = user.create_chat(Some("std")).await?;
        user.say(&chat, "PING").await?;
        let line = receiver.next().await?;
        let error = line["error"].as_str().unwrap_or_default();
        assert!(error.contains("No matching signature"), "{line}");
        // The right secret, without a restart.
        let changed = tenant.clone().with_secret("signing", SECRET);
        stack.write_manifest(&tenant.name, &changed.manifest())?;
        loop {
            let line = receiver.next().await?;
            if line["error"].is_null() {
                break;
            }
        }
    }
}
