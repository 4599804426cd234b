//! Every family of metrics is moved by the feature that it counts.

use std::collections::BTreeSet;

use minichat_metrics::catalogue::{CATALOGUE, Kind, Row};
use minichat_telemetry::Signal;
use minichat_tests::client::Api;
use minichat_tests::exposition::Scrape;
use minichat_tests::form::FormFile;
use minichat_tests::harness::Env;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Call, Ending, Reading, Scenario, Tokens};
use minichat_tests::stored_files::{MANUAL, StoredFiles, age};
use minichat_tests::webhook_receiver::{Reply, WebhookReceiver};
use serde_json::{Value, json};

/// Families that the tests of [`crate::thread_summaries`] move.
const OF_SUMMARIES: [&str; 3] = [
    "thread_summary_execution",
    "thread_summary_cas_conflicts",
    "summary_fallback",
];

const USAGE: &str = "/usage";

/// A data plane, and the families that have moved so far.
struct World {
    files: StoredFiles,
    moved: BTreeSet<&'static str>,
}

/// Whether any series of the family is not zero. Of a histogram, whether it has
/// observed anything.
fn has_moved(row: &Row, scrape: &Scrape) -> bool {
    let name = row.series("mini_chat");
    let name = match row.kind {
        Kind::Histogram(_) => format!("{name}_count"),
        _ => name,
    };
    scrape.sum(&name, &[]).abs() > 1e-9
}

impl World {
    async fn start(env: &Env, receiver: &WebhookReceiver) -> anyhow::Result<Self> {
        let settings = format!("{MANUAL}\nMINICHAT_CLEANUP_WORKER_POLL_INTERVAL_SECS=1");
        let files = StoredFiles::start_with(env, &settings, |mut tenant| {
            for model in ["prem", "std"] {
                let model = tenant.model(model);
                model["multimodalCapabilities"] = json!(["VISION_INPUT"]);
                model["toolSupport"] = json!({"codeInterpreter": true});
            }
            let usage = json!({"url": receiver.url(USAGE)});
            let audit = json!({"url": receiver.url("/audit")});
            tenant
                .with_webhook("usageSink", &usage)
                .with_webhook("auditSink", &audit)
        })
        .await?;
        let moved = BTreeSet::new();
        Ok(Self { files, moved })
    }

    /// Notes what has moved.
    async fn note(&mut self) -> anyhow::Result<()> {
        let scrape = self.files.stack.scrape().await?;
        let rows = CATALOGUE.iter().filter(|row| has_moved(row, &scrape));
        self.moved.extend(rows.map(|row| row.name));
        Ok(())
    }

    /// Waits until `family` moves, and notes it.
    async fn moves(&mut self, family: &'static str) -> anyhow::Result<()> {
        let row = CATALOGUE.iter().find(|row| row.name == family);
        let Some(row) = row else {
            anyhow::bail!("no family {family}");
        };
        let stack = &self.files.stack;
        let is_moved = async || Ok(has_moved(row, &stack.scrape().await?));
        stack.eventually(family, is_moved).await?;
        self.note().await
    }

    async fn chat(&self) -> anyhow::Result<(Api, String)> {
        let user = self.files.stack.new_user(&self.files.tenant)?;
        let chat = user.create_chat(Some("std")).await?;
        Ok((user, chat))
    }

    /// Sends `body`, which `scenario` answers.
    async fn sent(&self, scenario: Scenario, body: &Value) -> anyhow::Result<(Api, String)> {
        let (user, chat) = self.chat().await?;
        self.files.provider.push_scenario(scenario);
        user.open(&chat, body).await?.collect().await?;
        Ok((user, chat))
    }

    /// Answers of all kinds, a retry and usage beyond the reserve.
    async fn turns(&mut self) -> anyhow::Result<()> {
        let (user, chat) = self.chat().await?;
        for content in ["PING", "TRUNCATE", "ERROR"] {
            user.say(&chat, content).await?;
        }
        let events = user.say(&chat, "PING").await?;
        let request = events.only("stream_started")?["request_id"].clone();
        user.retry(&chat, request.as_str().unwrap_or_default())
            .await?;
        let dear = Scenario {
            usage: Some(Tokens {
                input: 5_000,
                output: 900,
            }),
            ..Scenario::deltas(&["ok"], Ending::Completed)
        };
        self.sent(dear, &json!({"content": "hello"})).await?;
        let code = Scenario::calls(vec![Call::CodeInterpreter {
            code: "print(1)".to_owned(),
            logs: "1".to_owned(),
        }]);
        self.sent(code, &json!({"content": "PING"})).await?;
        self.note().await
    }

    /// A client that leaves, and a turn that nobody ends.
    async fn departures(&mut self) -> anyhow::Result<()> {
        let (user, chat) = self.chat().await?;
        let hanging = Scenario::deltas(&["part"], Ending::Hang);
        self.files.provider.push_scenario(hanging.clone());
        let body = json!({"content": "hello"});
        let mut stream = user.open(&chat, &body).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        self.moves("active_streams").await?;
        drop(stream);
        self.moves("streams_aborted").await?;
        self.moves("cancel_effective").await?;

        let (user, chat) = self.chat().await?;
        self.files.provider.push_scenario(hanging);
        let mut stream = user.open(&chat, &body).await?;
        stream.expect("stream_started").await?;
        stream.expect("delta").await?;
        let stack = &self.files.stack;
        stack.database.age_turns("state = 'running'").await?;
        stack.watchdog().run_once(&Signal::new()).await;
        self.note().await
    }

    /// An image that is uploaded slowly and then sent.
    async fn uploads(&mut self) -> anyhow::Result<()> {
        let (user, chat) = self.chat().await?;
        let held = Scenario {
            reading: Reading::Held,
            ..Scenario::default()
        };
        self.files.provider.push_scenario(held.for_path("/files"));
        let (uploader, uploaded_to) = (user.clone(), chat.clone());
        let upload = tokio::spawn(async move {
            let file = FormFile::png(100);
            uploader.upload(&uploaded_to, &file).await?.expect(201)
        });
        self.moves("attachments_pending").await?;
        self.files.provider.release(1);
        let image = upload.await??["id"].clone();
        let body = json!({"content": "PING", "attachment_ids": [image]});
        user.open(&chat, &body).await?.collect().await?;
        self.note().await
    }

    /// A chat whose file the provider refuses to delete.
    async fn cleanups(&mut self) -> anyhow::Result<()> {
        let chat = self.files.chat_with(1).await?;
        self.files.provider.push_scenario(Scenario {
            times: 5,
            for_method: Some("DELETE".to_owned()),
            for_path: Some("/files/".to_owned()),
            status: 400,
            body: Some(json!({})),
            ..Scenario::default()
        });
        self.files.delete_chat(&chat).await?;
        self.moves("cleanup_backlog").await?;
        for _ in 0..8 {
            self.files.pass().await;
            age(&self.files.stack.database).await?;
        }
        self.note().await
    }

    /// A sink that is away, and then refuses an event.
    async fn deliveries(&mut self, receiver: &WebhookReceiver) -> anyhow::Result<()> {
        receiver.otherwise(|delivery| match delivery.path.as_str() {
            USAGE => Reply::Status(422),
            _ => Reply::Status(503),
        });
        let (user, chat) = self.chat().await?;
        user.say(&chat, "PING").await?;
        self.moves("outbox_dead_letter_backlog").await?;
        self.moves("outbox_dead_letter_oldest_age_seconds").await?;
        self.moves("outbox_oldest_pending_age_seconds").await
    }
}

on_each_database! {
    /// PLAT-54, PLAT-55, PLAT-58, PLAT-59: no series is there only for show.
    async fn every_family_is_moved_by_its_feature(env) {
        let receiver = WebhookReceiver::start().await?;
        let mut world = World::start(&env, &receiver).await?;
        world.turns().await?;
        world.departures().await?;
        world.uploads().await?;
        world.cleanups().await?;
        world.deliveries(&receiver).await?;
        let names = CATALOGUE.iter().map(|row| row.name);
        let still: BTreeSet<_> = names.filter(|name| !world.moved.contains(name)).collect();
        assert_eq!(still, BTreeSet::from(OF_SUMMARIES), "these have never moved");
    }
}
