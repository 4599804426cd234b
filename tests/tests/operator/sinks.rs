//! Sinks of tenants: their Secrets, and what the status says of deliveries.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::routing::get;
use axum::{Json, Router};
use minichat_core::{Clock as _, SystemClock};
use minichat_tests::client::Api as Http;
use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Pod, Site, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{argo_cd, kstatus, programs};

const SOON: Duration = Duration::from_secs(30);
const TENANT: (&str, &str) = ("ChatTenant", "acme");
const SECRET: &str = "receivers";
const FIRST_KEY: &str = "whsec_Zmlyc3Qtc2VjcmV0LWZpcnN0LXNlY3JldC1maXJzdA==";
const NEXT_KEY: &str = "whsec_bmV4dC1zZWNyZXQtbmV4dC1zZWNyZXQtbmV4dC1zZWM=";
const URL: &str = "https://billing.example.com/minichat";

fn signed(url: &str) -> Value {
    let reference = json!({"name": SECRET, "key": "billing"});
    json!({"type": "Webhook", "webhook": {"url": url, "signingSecretRef": reference}})
}

fn secret(site: &Site, labels: &Value, key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": site.tenants, "labels": labels},
        "stringData": {"billing": key, "token": "Bearer a-token-of-the-collector"},
    })
}

fn label() -> Value {
    json!({"minichat.dev/credentials": "true"})
}

/// A key of the rendered Secret.
async fn rendered(site: &Site, tenant: &Tenant, key: &str) -> anyhow::Result<Value> {
    let secret = site.rendered(tenant).await?.context("not rendered")?;
    let secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(secret)?;
    let data = secret.data.context("no data")?;
    Ok(serde_json::from_slice(&data.get(key).context("no key")?.0)?)
}

/// D49, K8S-8, K8S-20: the Secret of a sink is watched and labelled as those of providers are, and a changed one is
/// delivered at once. The last credentials are used only at the address at which they were used before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_sink_is_rotated_and_kept_for_its_address_alone() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    let pod = site.pod().await?;
    let mut tenant = site.tenant("acme");
    tenant.spec()["usageSink"] = signed(URL);
    site.apply(&secret(&site, &json!({}), FIRST_KEY)).await?;
    site.apply_tenant(&tenant).await?;
    let resolved = async |wanted| site.await_condition(TENANT, "ResolvedRefs", wanted).await;
    let path = "spec.usageSink.webhook.signingSecretRef";
    let message = resolved("False/SecretNotLabelled").await?;
    assert!(message.contains(&format!("{path}.name: ")), "{message}");
    assert!(site.rendered(&tenant).await?.is_none());
    site.home()
        .patch("Secret", SECRET, &json!({"metadata": {"labels": label()}}))
        .await?;
    site.await_ready(&tenant).await?;
    let document = rendered(&site, &tenant, "tenant.json").await?;
    assert_eq!(document["usage_sink"]["webhook"]["url"], URL);
    let credentials = rendered(&site, &tenant, "credentials.json").await?;
    assert_eq!(credentials["receivers/billing"], FIRST_KEY);
    assert!(!document.to_string().contains("whsec_"), "{document}");

    let revision = site.status(&tenant).await?["revision"].clone();
    let keys = format!("{FIRST_KEY} {NEXT_KEY}");
    let rotated = json!({"stringData": {"billing": keys}});
    site.home().patch("Secret", SECRET, &rotated).await?;
    let is_delivered = async || {
        let shown = pod.configz(&tenant).await?["revision"].clone();
        let credentials = rendered(&site, &tenant, "credentials.json").await?;
        Ok(shown != revision && credentials["receivers/billing"] == keys.as_str())
    };
    eventually("rotated", SOON, is_delivered).await?;

    let broken = json!({"stringData": {"billing": "whsec_visible"}});
    site.home().patch("Secret", SECRET, &broken).await?;
    let message = resolved("False/SecretInvalid").await?;
    assert!(message.contains(&format!("{path}.key: ")), "{message}");
    assert!(!message.contains("visible"), "{message}");
    site.delete("Secret", SECRET).await?;
    let message = resolved("False/SecretNotFound").await?;
    assert!(message.contains(&format!("{path}.name: ")), "{message}");
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    let before = site.rendered(&tenant).await?;
    let mut moved = tenant.clone();
    for sink in [
        signed("https://elsewhere.example.com/minichat"),
        json!({"type": "Webhook", "webhook": {"url": URL, "secretRef": {"name": SECRET, "key": "billing"}}}),
    ] {
        moved.spec()["usageSink"] = sink;
        site.apply(&moved.resource).await?;
        let is_held = async || {
            let message = resolved("False/SecretNotFound").await?;
            Ok(message.contains("to which it was sent before"))
        };
        eventually("held back", SOON, is_held).await?;
        assert_eq!(site.rendered(&tenant).await?, before);
    }
    // The words are those of `check-config`.
    moved.spec()["usageSink"] = signed("https://169.254.169.254/x");
    site.apply(&moved.resource).await?;
    let message = site
        .await_condition(TENANT, "Accepted", "False/Invalid")
        .await?;
    let words = "spec.usageSink.webhook.url: 169.254.169.254 is a link-local address, which is never called";
    assert!(message.contains(words), "{message}");
    // Another format at the same address is delivered.
    let mut reformed = tenant.clone();
    reformed.spec()["usageSink"]["webhook"]["format"] = json!("CloudEvents");
    site.apply(&reformed.resource).await?;
    let is_delivered = async || {
        let document = rendered(&site, &tenant, "tenant.json").await?;
        Ok(document["usage_sink"]["webhook"]["format"] == "cloud_events")
    };
    eventually("delivered", SOON, is_delivered).await?;
    site.await_condition(TENANT, "Degraded", "True/OldCredentials")
        .await?;
    pod.chat(&tenant).await?;
    let log = operator.log()?;
    assert!(
        !log.contains("whsec_Zmly") && !log.contains("visible"),
        "{log}"
    );
    Ok(())
}

/// A pod that answers as `pod` does, but for what it says of sinks.
struct Reporter {
    sinks: Arc<Mutex<Value>>,
    serving: JoinHandle<()>,
    port: u16,
}

impl Reporter {
    async fn of(pod: &Pod) -> anyhow::Result<Self> {
        let origin = pod.admin.origin();
        let addr: SocketAddr = origin.trim_start_matches("http://").parse()?;
        let sinks = Arc::new(Mutex::new(Value::Null));
        let shown = Arc::clone(&sinks);
        let answer = move || {
            let sinks = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { Json(configz(addr, &sinks).await.unwrap_or_default()) }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let router = Router::new().route("/configz", get(answer));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            sinks,
            serving,
            port,
        })
    }

    fn say(&self, sinks: Value) {
        *self.sinks.lock().unwrap_or_else(PoisonError::into_inner) = sinks;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// `/configz` of the data plane at `addr`, with `sinks` in each entry.
async fn configz(addr: SocketAddr, sinks: &Value) -> anyhow::Result<Value> {
    let admin = Http::new(addr);
    let mut entries = admin.get_absolute("/configz").await?.expect(200)?;
    for entry in entries.as_array_mut().into_iter().flatten() {
        entry["sinks"] = sinks.clone();
    }
    Ok(entries)
}

fn failing(minutes: i64, error: &str) -> Value {
    let since = SystemClock.now().plus_seconds(-60 * minutes).to_string();
    json!({"state": "failing", "failing_since": since, "last_error": error})
}

/// How many events about the tenant have the reason.
async fn events(site: &Site, reason: &str) -> anyhow::Result<usize> {
    let events = site.events("acme").await?;
    Ok(events.iter().filter(|one| *one == reason).count())
}

/// K8S-7, K8S-9, K8S-12, QUOTA-97: what pods report of sinks is a condition of its own, which `Ready` does not follow,
/// and one event for each failure of an hour, however often operators start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_sink_is_told_in_the_status_and_after_an_hour_by_one_event() -> anyhow::Result<()>
{
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let operator = site.operator().await?;
    // Only the reporter is a pod of the pool.
    let process = site.process_of_a_pod("").await?;
    let reporter = Reporter::of(&process).await?;
    process.register_another("reporter", reporter.port).await?;
    let healthy = async |wanted| site.await_condition(TENANT, "SinksHealthy", wanted).await;
    let plain = site.tenant("acme");
    site.admit([&plain]).await?;
    let conditions = site.status(&plain).await?["conditions"].to_string();
    assert!(!conditions.contains("SinksHealthy"), "{conditions}");

    let mut tenant = plain.clone();
    tenant.spec()["usageSink"] = json!({"type": "Log"});
    tenant.spec()["auditSink"] = json!({"type": "Log"});
    site.admit([&tenant]).await?;
    healthy("Unknown/NotReported").await?;
    let ok = json!({"state": "ok"});
    reporter.say(json!({"usage": ok, "audit": ok}));
    healthy("True/Delivering").await?;

    let error = format!("503\n{}", "x".repeat(1000));
    reporter.say(json!({"usage": failing(5, &error), "audit": ok}));
    let message = healthy("False/UsageSinkFailing").await?;
    assert!(
        message.starts_with("usageSink: events have not been delivered since 20"),
        "{message}"
    );
    assert!(
        message.contains("Z: 503 xxx") && message.len() < 400,
        "{message}"
    );
    // It is served, so nobody who waits for it is told of a failure (D46).
    site.await_ready(&tenant).await?;
    argo_cd::is_now(&site, TENANT, ("Healthy", "Ready:")).await?;
    kstatus::is_now(&site, TENANT, "Current").await?;
    let status = site.status(&tenant).await?;
    assert_eq!(status["sinks"]["usage"]["reported"], false, "{status}");
    assert_eq!(events(&site, "SinkFailing").await?, 0);

    reporter.say(json!({"usage": ok, "audit": failing(61, "504")}));
    healthy("False/AuditSinkFailing").await?;
    let is_told = async || Ok(events(&site, "SinkFailing").await? == 1);
    eventually("told", SOON, is_told).await?;
    operator.kill().await?;
    let _operator = site.operator().await?;
    reporter.say(json!({"usage": failing(1, "503"), "audit": failing(240, "505")}));
    healthy("False/SinksFailing").await?;
    site.await_ready(&tenant).await?;
    assert_eq!(events(&site, "SinkFailing").await?, 1);

    reporter.say(json!({"usage": ok, "audit": ok}));
    healthy("True/Delivering").await?;
    let is_told = async || Ok(events(&site, "SinkRecovered").await? == 1);
    eventually("told", SOON, is_told).await?;
    assert_eq!(events(&site, "SinkFailing").await?, 1);
    let status = site.status(&tenant).await?;
    assert!(status["sinks"].is_null(), "{status}");

    site.admit([&plain]).await?;
    let conditions = site.status(&plain).await?["conditions"].to_string();
    assert!(!conditions.contains("SinksHealthy"), "{conditions}");
    Ok(())
}
