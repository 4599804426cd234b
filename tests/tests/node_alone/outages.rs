//! The pool without its operator and without the API server.

use bytes::Bytes;
use http::Method;
use minichat_cluster::NodeTier;
use minichat_core::{Clock as _, SystemClock};
use minichat_dataplane::books::Month;
use minichat_tests::client::Api;
use minichat_tests::installation::{Installation, eventually};
use minichat_tests::scripted_provider::Scenario;
use serde_json::{Value, json};
use uuid::Uuid;

async fn control(provider: &Api, call: &str, body: &Value) -> anyhow::Result<()> {
    let path = format!("/_control/{call}");
    let body = Bytes::from(body.to_string());
    let answer = provider.send(Method::POST, &path, &[], body).await?;
    anyhow::ensure!(answer.status() == 200, "{call}: {}", answer.status());
    Ok(())
}

/// The books of this month balance and have at least this many turns. The pod's own database is read, beside the process that
/// serves from it.
fn check_books(installation: &Installation, tenant: Uuid, turns: u64) -> anyhow::Result<()> {
    let pods = installation.pods("pool")?;
    let [pod] = pods.as_slice() else {
        anyhow::bail!("{} pods of the pool instead of one", pods.len());
    };
    let (tenant, month) = (tenant.to_string(), Month::of(SystemClock.now()).to_string());
    let books = ["/minichat-dataplane", "books", "--output=json"];
    let whose = ["--tenant", &tenant, "--month", &month];
    let exec = ["exec", &pod.name, "--"];
    let books = installation.kubectl(&[&exec[..], &books, &whose].concat())?;
    let books: Value = serde_json::from_str(&books)?;
    let lines = books["lines"].as_array().into_iter().flatten();
    let booked: u64 = lines.filter_map(|line| line["turns"].as_u64()).sum();
    anyhow::ensure!(books["balanced"] == true && booked >= turns, "{books:#}");
    Ok(())
}

/// K8S-3; check 12 of chapter 06; the credits of what went on are booked
#[tokio::test(flavor = "multi_thread")]
async fn chats_go_on_without_operator_and_api_server_and_an_edit_lands_when_they_are_back()
-> anyhow::Result<()> {
    let installation = Installation::start("outage", json!({})).await?;
    let plenty = (1_000_000_000, 10_000_000_000);
    let tenant = installation.tenant("acme").with_limits(plenty, plenty);
    installation.admit(&tenant)?;
    let api = installation.serving(tenant.id, Uuid::new_v4()).await?;
    let provider = installation.provider()?;
    let node = NodeTier::open()?;

    let operator = ["scale", "deployment/minichat-operator"];
    installation.kubectl(&[&operator[..], &["--replicas=0"]].concat())?;
    let gone = async || Ok(installation.pods("operator")?.is_empty());
    eventually("without an operator", gone).await?;
    let chat = api.create_chat(Some("std")).await?;
    api.say(&chat, "PING").await?;

    let held = Scenario {
        hold_before_end: true,
        ..Scenario::default()
    };
    control(&provider, "scenarios", &json!(held)).await?;
    let long = api.create_chat(Some("std")).await?;
    let mut open = api.open(&long, &json!({"content": "PING"})).await?;
    open.expect("stream_started").await?;
    open.expect("delta").await?;
    node.api().stop_api_server()?;
    assert!(!installation.kubectl.is_server_ready());
    let short = api.create_chat(Some("std")).await?;
    let answer = api.say(&short, "PING").await?;
    answer.only("done")?;
    control(&provider, "release", &Value::Null).await?;
    open.collect().await?.only("done")?;

    node.api().start_api_server()?;
    installation.kubectl(&[&operator[..], &["--replicas=1"]].concat())?;
    let nothing = json!({"spec": {"limits": {"standard": {"daily": 0}, "premium": {"daily": 0}}}});
    let nothing = nothing.to_string();
    let quota = ["patch", "chatquota/acme-default", "--type=merge", "--patch"];
    installation.kubectl_of_tenants(&[&quota[..], &[nothing.as_str()]].concat())?;
    eventually("refused by the new limits", async || {
        let answer = api.refused(&short, &json!({"content": "PING"})).await?;
        Ok(answer.status == 429)
    })
    .await?;
    check_books(&installation, tenant.id, 3)?;
    installation.remove().await
}
