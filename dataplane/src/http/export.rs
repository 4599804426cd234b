//! `GET /me/export`: everything that is kept about the caller, a JSON object per
//! line (API-114). The body is read from the database page by page, as the client
//! takes it.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use minichat_core::{ChatId, TenantId, UserId};
use minichat_store::{EventSource, ExportTable, ExportedRow, Store, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::app::App;
use crate::caller::Caller;
use crate::erasure::is_about;
use crate::problem::Problem;

/// Rows that are read at a time.
const PAGE: u32 = 200;

/// One line.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExportLine<'a> {
    /// What the line shows: `chat`, `message`, `turn`, `reaction`, `attachment`,
    /// `message_attachment`, `summary`, `quota`, `usage`, `event`, or `end`, which
    /// is the last one. More may come.
    #[serde(rename = "type")]
    kind: &'a str,
    /// The columns of the row.
    #[serde(flatten)]
    columns: Map<String, Value>,
}

/// `GET /me/export`
pub(super) async fn export(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let mut export = Export::new(app.store.clone(), caller.tenant_id, caller.user_id);
    // A database that does not serve is answered with 503, not with half a body.
    let first = export.next_page().await?;
    let rest = stream::unfold(Some((export, first)), |state| async move {
        let (mut export, page) = state?;
        let page = page?;
        let next = match export.next_page().await {
            Ok(next) => next,
            Err(error) => return Some((Err(error), None)),
        };
        Some((Ok::<Bytes, StoreError>(page), Some((export, next))))
    });
    let headers = [
        (CONTENT_TYPE, "application/jsonl"),
        (CONTENT_DISPOSITION, "attachment; filename=\"export.jsonl\""),
    ];
    Ok((headers, Body::from_stream(rest)).into_response())
}

/// What is still to be written.
struct Export {
    store: Store,
    tenant: TenantId,
    user: UserId,
    steps: VecDeque<Step>,
}

/// The pages of one table.
#[derive(Clone, Copy)]
enum Step {
    Person(ExportTable, Uuid),
    Chat(ChatId, ExportTable, Uuid),
    Usage,
    Events(EventSource, i64),
    End,
}

impl Export {
    fn new(store: Store, tenant: TenantId, user: UserId) -> Self {
        let steps = [
            Step::Person(ExportTable::CHATS, Uuid::nil()),
            Step::Person(ExportTable::QUOTA, Uuid::nil()),
            Step::Usage,
            Step::Events(EventSource::Queues, 0),
            Step::Events(EventSource::DeadLetters, 0),
            Step::End,
        ];
        Self {
            store,
            tenant,
            user,
            steps: steps.into(),
        }
    }

    /// The lines of the next page that has any.
    async fn next_page(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some(step) = self.steps.pop_front() {
            let lines = self.read(step).await?;
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
        }
        Ok(None)
    }

    async fn read(&mut self, step: Step) -> Result<Vec<u8>, StoreError> {
        let (tenant, user) = (self.tenant, self.user);
        match step {
            Step::Person(table, after) => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| {
                        Box::pin(async move {
                            tx.export_of_person(tenant, user, &table, after, PAGE).await
                        })
                    })
                    .await?;
                self.after_page(&rows, |key| Step::Person(table, key));
                if table.name == ExportTable::CHATS.name {
                    self.enter_chats(&rows);
                }
                Ok(lines(table.name, rows))
            }
            Step::Chat(chat, table, after) => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| {
                        Box::pin(async move {
                            tx.export_of_chat(tenant, chat, &table, after, PAGE).await
                        })
                    })
                    .await?;
                self.after_page(&rows, |key| Step::Chat(chat, table, key));
                Ok(lines(table.name, rows))
            }
            Step::Usage => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| Box::pin(async move { tx.export_usage(tenant, user).await }))
                    .await?;
                Ok(lines("usage", rows))
            }
            Step::Events(source, after) => self.events(source, after).await,
            Step::End => Ok(lines("end", vec![nothing()])),
        }
    }

    async fn events(&mut self, source: EventSource, after: i64) -> Result<Vec<u8>, StoreError> {
        let (tenant, user) = (self.tenant, self.user);
        let events: Vec<(i64, String)> = self
            .store
            .read(move |tx| {
                Box::pin(async move { tx.export_events(tenant, user, source, after, PAGE).await })
            })
            .await?;
        if let Some((last, _)) = events.last().filter(|_| events.len() == PAGE as usize) {
            self.steps.push_front(Step::Events(source, *last));
        }
        let rows = events.into_iter().filter_map(|(_, payload)| {
            let event = serde_json::from_str(&payload).ok()?;
            if !is_about(&event, user) {
                return None;
            }
            let mut row = nothing();
            row.columns.insert("event".to_owned(), event);
            Some(row)
        });
        Ok(lines("event", rows.collect()))
    }

    /// A full page may be followed by another one.
    fn after_page(&mut self, rows: &[ExportedRow], step: impl Fn(Uuid) -> Step) {
        if let Some(last) = rows.last().filter(|_| rows.len() >= PAGE as usize) {
            self.steps.push_front(step(last.key));
        }
    }

    /// The content of chats comes right after their page.
    fn enter_chats(&mut self, chats: &[ExportedRow]) {
        for chat in chats.iter().rev() {
            for table in ExportTable::OF_CHAT.into_iter().rev() {
                let step = Step::Chat(ChatId(chat.key), table, Uuid::nil());
                self.steps.push_front(step);
            }
        }
    }
}

fn nothing() -> ExportedRow {
    ExportedRow {
        key: Uuid::nil(),
        columns: Map::new(),
    }
}

fn lines(kind: &str, rows: Vec<ExportedRow>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        let columns = row.columns;
        // Writing into memory cannot fail, and the columns are JSON already.
        if serde_json::to_writer(&mut bytes, &ExportLine { kind, columns }).is_ok() {
            let _ = bytes.write_all(b"\n");
        }
    }
    bytes
}
