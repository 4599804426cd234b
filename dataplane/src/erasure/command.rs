//! `minichat-dataplane erase`.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use minichat_config::process::JobConfig;
use minichat_core::{SystemClock, TenantId, UserId};
use minichat_store::{Erasure, StoreError};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Eraser, ErasureReport, Progress};
use crate::database::open;
use crate::outbox::Outbox;

/// Whom to erase.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub tenant: TenantId,
    pub user: UserId,
    /// How long to wait for files and answers.
    pub patience: Duration,
}

/// Time between two looks at what an erasure waits for.
const POLL: Duration = Duration::from_secs(2);

/// Erases a user and writes one line of JSON. `Ok(false)`: something is left, with
/// which the clean-up goes on.
pub async fn erase(
    config: &JobConfig,
    request: &Request,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let eraser = Eraser {
        store: open(&config.database, false).await?,
        outbox: Arc::new(Outbox::without_dispatcher(config.outbox.clone())),
        clock: Arc::new(SystemClock),
    };
    check_tenant(&eraser, request.tenant).await?;
    let erasure = eraser
        .begin(request.tenant, request.user)
        .await
        .context("the erasure cannot begin; nothing was changed")?;
    let gives_up_at = Instant::now() + request.patience;
    let mut seen = None;
    loop {
        match eraser.advance(erasure, &|| false).await {
            Ok(progress @ Progress::Finished(_)) => {
                return write(&erasure, progress, out).map(|()| true);
            }
            Ok(progress @ Progress::Waiting(_)) if Instant::now() >= gives_up_at => {
                return write(&erasure, progress, out).map(|()| false);
            }
            Ok(Progress::Waiting(rest)) => {
                if seen.replace(rest) != Some(rest) {
                    tracing::info!(erasure = %erasure.id, ?rest, "waiting");
                }
            }
            Err(error) if error.is_unavailable() && Instant::now() < gives_up_at => {
                tracing::warn!(%error, "the database cannot serve; trying again");
            }
            Err(error) => {
                return Err(error).context(
                    "the erasure has begun and is not finished; the clean-up goes on with it",
                );
            }
        }
        sleep(POLL).await;
    }
}

/// A mistyped id would erase nobody, and say that it did.
async fn check_tenant(eraser: &Eraser, tenant: TenantId) -> anyhow::Result<()> {
    let owner: Result<_, StoreError> = eraser
        .store
        .read(move |tx| Box::pin(async move { tx.tenant_owner(tenant).await }))
        .await;
    if owner.context("the tenants cannot be read")?.is_none() {
        bail!(
            "no tenant {tenant} was ever served from this database; nothing was changed. `minichat-dataplane tenants list` shows those that were"
        );
    }
    Ok(())
}

/// What the command prints.
#[derive(Serialize)]
struct Line {
    job: &'static str,
    erasure: Uuid,
    tenant_id: TenantId,
    #[serde(flatten)]
    report: ErasureReport,
}

fn write(erasure: &Erasure, progress: Progress, out: &mut impl Write) -> anyhow::Result<()> {
    let line = serde_json::to_string(&Line {
        job: "erase",
        erasure: erasure.id,
        tenant_id: erasure.tenant_id,
        report: progress.into(),
    })?;
    writeln!(out, "{line}").context("the report cannot be printed")
}
