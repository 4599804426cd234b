//! The operator's memory beside Secrets that no tenant may name (D49).
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use minichat_tests::child::Memory;
use minichat_tests::database::DatabaseKind;
use minichat_tests::site::{Programs, Site};
use serde_json::json;

use crate::CREATED_AT_ONCE;

const BYTES: usize = 32 << 10;

/// Memory of an operator that serves a tenant beside `count` Secrets of 32 KiB. They go with an API server of their own:
/// one request that deletes so many takes longer than a server lets a request take.
pub(crate) async fn beside_secrets(programs: Programs, count: usize) -> anyhow::Result<Memory> {
    let site = Site::own(programs, DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let secrets: Api<Secret> = Api::namespaced(site.client.clone(), &site.tenants);
    let value = "x".repeat(BYTES);
    let create = async |number: usize| -> anyhow::Result<()> {
        let secret = serde_json::from_value(json!({
            "metadata": {"name": format!("unnamed-{number}")},
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

    println!("{count} Secrets of 32 KiB that no tenant may name are made");

    let operator = site.operator().await?;
    let tenant = site.tenant("beside-secrets");
    site.admit([&tenant]).await?;
    operator.memory()
}
