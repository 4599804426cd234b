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
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use minichat_core::{ChatId, TenantId, UserId};
use minichat_store::{EventSource, ExportTable, ExportedRow, Store, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::attachments::ThumbnailView;
use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// Events that are read at a time; one has at most 64 KiB.
const EVENTS: u32 = 50;

/// One line.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExportLine<'a> {
    /// What the line shows: `chat`, `message`, `turn`, `reaction`, `attachment`,
    /// `message_attachment`, `summary`, `quota`, `erasure`, `usage`, `purged_turns`,
    /// `event`, or `end`, which is the last one. More may come.
    #[serde(rename = "type")]
    kind: &'a str,
    /// The columns of the row.
    #[serde(flatten)]
    columns: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    img_thumbnail: Option<ThumbnailView>,
}

/// `GET /me/export`
pub(super) async fn export(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let mut export = Export::new(&app, &caller);
    // A database that does not serve is answered with 503, not with half a body.
    let first = export.next_page().await?;
    let rest = stream::try_unfold(export, |mut export| async move {
        let page = export.next_page().await.inspect_err(|error| {
            tracing::error!(%error, "an export ended before its end");
        })?;
        Ok::<_, StoreError>(page.map(|page| (page, export)))
    });
    let headers = [
        (CONTENT_TYPE, "application/jsonl"),
        (CONTENT_DISPOSITION, "attachment; filename=\"export.jsonl\""),
    ];
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(rest));
    Ok((headers, body).into_response())
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
    /// Chats, each followed by what belongs to it.
    Chats(ExportTable, Uuid),
    Person(ExportTable, Uuid),
    Chat(ChatId, ExportTable, Uuid),
    Usage,
    Purged,
    Events(EventSource, i64),
    End,
}

impl Export {
    fn new(app: &App, caller: &Caller) -> Self {
        let first = Uuid::nil();
        let mut steps: VecDeque<_> = ExportTable::CHATS.map(|it| Step::Chats(it, first)).into();
        steps.extend(ExportTable::OF_PERSON.map(|it| Step::Person(it, first)));
        steps.extend([Step::Usage, Step::Purged]);
        for source in [
            EventSource::Waiting,
            EventSource::Delivered,
            EventSource::Refused,
        ] {
            steps.push_back(Step::Events(source, 0));
        }
        steps.push_back(Step::End);
        Self {
            store: app.store.clone(),
            tenant: caller.tenant_id,
            user: caller.user_id,
            steps,
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
            Step::Chats(table, after) => {
                let chats = self.of_person(table, after).await?;
                self.after_page(&table, &chats, |key| Step::Chats(table, key));
                self.enter_chats(&chats);
                Ok(lines(table.name, chats))
            }
            Step::Person(table, after) => {
                let rows = self.of_person(table, after).await?;
                self.after_page(&table, &rows, |key| Step::Person(table, key));
                Ok(lines(table.name, rows))
            }
            Step::Chat(chat, table, after) => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| {
                        Box::pin(
                            async move { tx.export_of_chat(tenant, chat, &table, after).await },
                        )
                    })
                    .await?;
                self.after_page(&table, &rows, |key| Step::Chat(chat, table, key));
                Ok(lines(table.name, rows))
            }
            Step::Usage => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| Box::pin(async move { tx.export_usage(tenant, user).await }))
                    .await?;
                Ok(lines("usage", rows))
            }
            Step::Purged => {
                let rows: Vec<ExportedRow> = self
                    .store
                    .read(move |tx| Box::pin(async move { tx.export_purged(tenant, user).await }))
                    .await?;
                Ok(lines("purged_turns", rows))
            }
            Step::Events(source, after) => self.events(source, after).await,
            Step::End => Ok(lines("end", vec![nothing()])),
        }
    }

    async fn of_person(
        &self,
        table: ExportTable,
        after: Uuid,
    ) -> Result<Vec<ExportedRow>, StoreError> {
        let (tenant, user) = (self.tenant, self.user);
        self.store
            .read(move |tx| {
                Box::pin(async move { tx.export_of_person(tenant, user, &table, after).await })
            })
            .await
    }

    async fn events(&mut self, source: EventSource, after: i64) -> Result<Vec<u8>, StoreError> {
        let (tenant, user) = (self.tenant, self.user);
        let events: Vec<(i64, String)> = self
            .store
            .read(move |tx| {
                Box::pin(async move { tx.export_events(tenant, user, source, after, EVENTS).await })
            })
            .await?;
        if let Some((last, _)) = events.last().filter(|_| events.len() == EVENTS as usize) {
            self.steps.push_front(Step::Events(source, *last));
        }
        let rows = events.into_iter().filter_map(|(_, payload)| {
            let mut row = nothing();
            let event = serde_json::from_str(&payload).ok()?;
            row.columns.insert("event".to_owned(), event);
            Some(row)
        });
        Ok(lines("event", rows.collect()))
    }

    /// A full page may be followed by another one.
    fn after_page(
        &mut self,
        table: &ExportTable,
        rows: &[ExportedRow],
        step: impl Fn(Uuid) -> Step,
    ) {
        if let Some(last) = rows.last().filter(|_| rows.len() >= table.page as usize) {
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
        thumbnail: None,
    }
}

fn lines(kind: &str, rows: Vec<ExportedRow>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        let line = ExportLine {
            kind,
            columns: row.columns,
            img_thumbnail: row.thumbnail.map(ThumbnailView::from),
        };
        // Writing into memory cannot fail, and the columns are JSON already.
        if serde_json::to_writer(&mut bytes, &line).is_ok() {
            let _ = bytes.write_all(b"\n");
        }
    }
    bytes
}
