//! The health check for Argo CD in the docs, run by Lua on statuses that the operator writes (D46).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_tests::site::{Site, eventually};
use serde_json::{Value, json};

use super::kstatus::{OBJECTS, apply_orphan, with_unseen_objects};

const SOON: Duration = Duration::from_secs(30);
const PAGE: &str = include_str!("../../../docs/argo-cd.md");
/// Argo CD runs checks by an interpreter of Lua 5.1.
const LUA: &str = "lua5.1";
const UNSEEN: &str = "no operator has seen it yet";

/// The script of both kinds.
fn script() -> anyhow::Result<String> {
    let key = |kind: &str| format!("  resource.customizations.health.minichat.dev_{kind}: ");
    let same = key("ChatQuota") + "*health";
    ensure!(PAGE.lines().any(|line| line == same), "no {same}");
    let begin = key("ChatTenant") + "&health |";
    let (_, rest) = PAGE.split_once(&begin).context("no check of tenants")?;
    let lines = rest
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix("    "));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// `value` as Lua writes it.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => lua_text(text),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(lua).collect();
            format!("{{{}}}", values.join(","))
        }
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(key, value)| format!("[{}]={}", lua_text(key), lua(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
    }
}

/// Each byte by its number.
fn lua_text(text: &str) -> String {
    let bytes: Vec<_> = text.bytes().map(|byte| format!("\\{byte:03}")).collect();
    format!("\"{}\"", bytes.concat())
}

/// What Argo CD shows of the object: its health, and a message.
async fn health(site: &Site, (kind, name): (&str, &str)) -> anyhow::Result<(String, String)> {
    let object = site.get(kind, name).await?.context("no such object")?;
    let program = format!(
        "obj = {}\nlocal function check()\n{}\nend\nlocal health = check()\nprint(health.status)\nprint(health.message)",
        lua(&object),
        script()?
    );
    let ran = Command::new(LUA).args(["-e", &program]).output();
    let ran = ran.with_context(|| format!("{LUA} is missing: install the package {LUA}"))?;
    ensure!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let printed = String::from_utf8(ran.stdout)?;
    let (status, message) = printed.split_once('\n').context("one line")?;
    Ok((status.to_owned(), message.trim_end().to_owned()))
}

pub(super) async fn is_now(
    site: &Site,
    object: (&str, &str),
    wanted: (&str, &str),
) -> anyhow::Result<()> {
    let (status, message) = health(site, object).await?;
    assert_eq!(status, wanted.0, "{message}");
    assert!(message.starts_with(wanted.1), "{message}");
    Ok(())
}

async fn becomes(site: &Site, object: (&str, &str), wanted: &str) -> anyhow::Result<()> {
    let is = async || Ok(health(site, object).await?.0 == wanted);
    eventually(&format!("{object:?}: {wanted}"), SOON, is).await
}

/// D46
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn argo_cd_shows_what_is_served_what_is_on_its_way_and_what_a_person_must_mend()
-> anyhow::Result<()> {
    let (site, mut tenant) = with_unseen_objects().await?;
    let (object, quota) = OBJECTS;
    for unseen in [object, quota] {
        is_now(&site, unseen, ("Progressing", UNSEEN)).await?;
    }

    let operator = site.operator().await?;
    site.await_condition(object, "Ready", "False/NoPods")
        .await?;
    is_now(&site, object, ("Progressing", "NoPods: ")).await?;
    becomes(&site, quota, "Progressing").await?;
    let _pod = site.pod().await?;
    for served in [object, quota] {
        becomes(&site, served, "Healthy").await?;
        is_now(&site, served, ("Healthy", "Ready:")).await?;
    }

    let reference = "/spec/providers/0/auth/secretKeyRef/key";
    let key = tenant.resource.pointer(reference).cloned();
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"]["key"] = json!("no-such-key");
    site.apply(&tenant.resource).await?;
    site.await_condition(object, "Stalled", "True/KeyMissing")
        .await?;
    let degraded = "KeyMissing: spec.providers[0].auth.secretKeyRef";
    is_now(&site, object, ("Degraded", degraded)).await?;
    tenant.spec()["providers"][0]["auth"]["secretKeyRef"]["key"] = key.unwrap_or_default();
    site.apply(&tenant.resource).await?;
    becomes(&site, object, "Healthy").await?;
    let orphan = apply_orphan(&site, &tenant).await?;
    becomes(&site, orphan, "Degraded").await?;
    is_now(&site, orphan, ("Degraded", "TenantNotFound: ")).await?;

    operator.kill().await?;
    tenant.spec()["displayName"] = json!("unseen");
    site.apply(&tenant.resource).await?;
    is_now(&site, object, ("Progressing", UNSEEN)).await
}
