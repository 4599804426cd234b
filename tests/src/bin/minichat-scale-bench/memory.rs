//! Memory of an operator beside Secrets that no tenant may name (D49).
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use minichat_tests::figures::verdict;
use minichat_tests::site::{Site, eventually};
use serde_json::json;

use crate::CREATED_AT_ONCE;

const BYTES: usize = 32 << 10;
const GOAL_MIB: u64 = 64;
const ENDS_WITHIN: Duration = Duration::from_mins(1);
/// Tells these Secrets from others.
const LABEL: &str = "unnamed=true";

/// Starts an operator beside `count` Secrets of 32 KiB, has it serve a tenant, and prints its memory.
pub(crate) async fn beside_secrets(site: &Site, count: usize) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(site.client.clone(), &site.tenants);
    let value = "x".repeat(BYTES);
    let create = async |number: usize| -> anyhow::Result<()> {
        let secret = serde_json::from_value(json!({
            "metadata": {"name": format!("unnamed-{number}"), "labels": {"unnamed": "true"}},
            "stringData": {"value": value},
        }))?;
        secrets.create(&PostParams::default(), &secret).await?;
        Ok(())
    };
    stream::iter(0..count)
        .map(create)
        .buffer_unordered(CREATED_AT_ONCE)
        .try_collect::<()>()
        .await?;

    let operator = site.operator().await?;
    let tenant = site.tenant("beside-secrets");
    site.admit([&tenant]).await?;
    let memory = operator.memory()?;
    println!(
        "memory of an operator with one tenant beside {count} Secrets of 32 KiB that none may name, in MiB: \
         {} now, {} at most (goal {GOAL_MIB}: {})",
        memory.resident >> 20,
        memory.peak >> 20,
        verdict(memory.peak >> 20 < GOAL_MIB)
    );
    site.delete("ChatTenant", &tenant.name).await?;
    let is_gone = async || Ok(site.get("ChatTenant", &tenant.name).await?.is_none());
    eventually("without the tenant", ENDS_WITHIN, is_gone).await?;
    operator.kill().await?;
    let those = ListParams::default().labels(LABEL);
    secrets
        .delete_collection(&DeleteParams::default(), &those)
        .await?;
    Ok(())
}
