//! Dead letters on the admin listener, which anybody in the pod network may read: no
//! payloads, which belong to the tenants (PLAT-35, PLAT-165).

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use minichat_config::process::{self, OutboxKind};
use minichat_core::{TenantId, Timestamp};
use minichat_store::{DeadLetter, DeadLetterFilter, DeadLetterStatus, StoreError};
use serde::{Deserialize, Serialize};

use crate::app::App;

/// Dead letters that are listed, unless the request says another number.
pub(crate) const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// What is shown of a dead letter.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    pub(crate) id: i64,
    /// `null`: the queue has another name by now.
    pub(crate) kind: Option<&'static str>,
    pub(crate) queue: &'a str,
    pub(crate) tenant_id: TenantId,
    /// By what receivers recognize the event.
    pub(crate) key: &'a str,
    pub(crate) status: &'static str,
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<&'a str>,
    pub(crate) created_at: Timestamp,
    pub(crate) failed_at: Timestamp,
    pub(crate) payload_bytes: u64,
}

impl<'a> Shown<'a> {
    pub(crate) fn of(letter: &'a DeadLetter, config: &process::Outbox) -> Self {
        Self {
            id: letter.id,
            kind: config.kind(&letter.queue).map(OutboxKind::as_str),
            queue: &letter.queue,
            tenant_id: letter.tenant_id,
            key: &letter.key,
            status: letter.status.as_str(),
            attempts: letter.attempts,
            last_error: letter.last_error.as_deref(),
            created_at: letter.created_at,
            failed_at: letter.failed_at,
            payload_bytes: letter.payload_bytes,
        }
    }
}

/// The parameters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    kind: Option<String>,
    tenant: Option<TenantId>,
    status: Option<String>,
    #[serde(default)]
    after: i64,
    limit: Option<u32>,
}

/// `/dead-letters` and `/dead-letters/{id}`.
pub(crate) fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{id}", get(show))
        .with_state(Arc::clone(app))
}

/// The filter that words ask for; an error names the word that is none.
pub(crate) fn filter(
    config: &process::Outbox,
    kind: Option<&str>,
    status: Option<&str>,
) -> Result<DeadLetterFilter, String> {
    let queue = kind.map(|name| {
        let kind = OutboxKind::ENQUEUED
            .into_iter()
            .find(|kind| kind.as_str() == name);
        let kind = kind
            .ok_or_else(|| none_of(name, "kind", OutboxKind::ENQUEUED.map(OutboxKind::as_str)))?;
        Ok::<_, String>(config.queue(kind).to_owned())
    });
    let status = status.map(|name| {
        let all = DeadLetterStatus::ALL.map(DeadLetterStatus::as_str);
        DeadLetterStatus::parse(name).ok_or_else(|| none_of(name, "status", all))
    });
    Ok(DeadLetterFilter {
        queue: queue.transpose()?,
        status: status.transpose()?,
        limit: LIMIT,
        ..DeadLetterFilter::default()
    })
}

/// What to write instead of `name`.
fn none_of<const N: usize>(name: &str, what: &str, all: [&str; N]) -> String {
    format!("{name} is no {what}: {}", all.join(", "))
}

async fn list(State(app): State<Arc<App>>, Query(query): Query<ListQuery>) -> Response {
    let config = &app.config.outbox;
    let filter = match filter(config, query.kind.as_deref(), query.status.as_deref()) {
        Ok(filter) => DeadLetterFilter {
            tenant_id: query.tenant,
            after: query.after,
            limit: query.limit.unwrap_or(LIMIT).min(MAX_LIMIT),
            ..filter
        },
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
    };
    let letters = app.store.read(move |tx| {
        let filter = filter.clone();
        Box::pin(async move { tx.outbox_dead_letters(&filter).await })
    });
    match letters.await {
        Ok(letters) => {
            let letters: Vec<_> = letters.iter().map(|it| Shown::of(it, config)).collect();
            Json(letters).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

async fn show(State(app): State<Arc<App>>, Path(id): Path<i64>) -> Response {
    let letter = app
        .store
        .read(move |tx| Box::pin(async move { tx.outbox_dead_letter(id).await }));
    match letter.await {
        Ok(Some(letter)) => Json(Shown::of(&letter, &app.config.outbox)).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such dead letter\n").into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &StoreError) -> Response {
    tracing::warn!(%error, "dead letters cannot be read");
    let text = "the database cannot be read; the log says why\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests {
    use minichat_config::process::JobConfig;

    use super::*;

    /// PLAT-35: whoever writes a wrong word is told all that there are, and each of
    /// them is taken.
    #[test]
    fn a_wrong_word_is_answered_with_all_right_ones() {
        let config = JobConfig::load(None, []).unwrap().outbox;
        let refused = |kind, status| filter(&config, kind, status).unwrap_err();
        let kinds = refused(Some("mail"), None);
        for kind in OutboxKind::ENQUEUED.map(OutboxKind::as_str) {
            assert!(kinds.contains(kind), "{kind}: {kinds}");
            assert!(filter(&config, Some(kind), None).is_ok());
        }
        let statuses = refused(None, Some("lost"));
        for status in DeadLetterStatus::ALL.map(DeadLetterStatus::as_str) {
            assert!(statuses.contains(status), "{status}: {statuses}");
            assert!(filter(&config, None, Some(status)).is_ok());
        }
    }
}
