//! Erases persons (PLAT-22). Each step is small and can be repeated, so whoever
//! comes next goes on: the request of the person, the command, or a pass of the
//! clean-up, which deletes the files at the provider.

pub mod command;
mod report;

use std::sync::Arc;

use minichat_core::{ChatId, Clock, TenantId, UserId};
use minichat_store::{Erased, Erasure, ErasureRest, Store, StoreError};
use uuid::Uuid;

use crate::chat_deletion::ChatDeletion;
use crate::dead_letter::without_content;
use crate::outbox::Outbox;

pub(crate) use self::report::ErasureReport;

/// Chats or events that are read at a time.
const PAGE: u32 = 100;

/// How far an erasure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// What it waits for.
    Waiting(ErasureRest),
    /// What it has changed. Nothing names the person any more.
    Finished(Erased),
}

/// Says whether no further row may be changed.
pub(crate) type MustStop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Carries out erasures.
#[derive(Clone)]
pub(crate) struct Eraser {
    pub(crate) store: Store,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Eraser {
    /// Begins to erase a person, or finds the erasure that has begun.
    pub(crate) async fn begin(
        &self,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Erasure, StoreError> {
        loop {
            let (id, now) = (Uuid::new_v4(), self.clock.now());
            let erasure: Option<Erasure> = self
                .store
                .write(move |tx| {
                    Box::pin(async move { tx.erasure_begin(tenant, user, id, now).await })
                })
                .await?;
            if let Some(erasure) = erasure {
                return Ok(erasure);
            }
        }
    }

    /// Does everything of an erasure that can be done now, until `must_stop`, which it
    /// asks between rows.
    pub(crate) async fn advance(
        &self,
        erasure: Erasure,
        must_stop: MustStop<'_>,
    ) -> Result<Progress, StoreError> {
        self.delete_chats(erasure, must_stop).await?;
        self.empty_chats(erasure, must_stop).await?;
        let rest = self.rest(erasure).await?;
        if rest.chats > 0 || must_stop() {
            return Ok(Progress::Waiting(rest));
        }
        // Only once, because it looks through all events that wait.
        self.empty_events(erasure, must_stop).await?;
        if must_stop() {
            return Ok(Progress::Waiting(rest));
        }
        let now = self.clock.now();
        let finished: Option<Erased> = self
            .store
            .write(move |tx| Box::pin(async move { tx.erasure_finish(&erasure, now).await }))
            .await?;
        if let Some(erased) = finished {
            return Ok(Progress::Finished(erased));
        }
        // Another process may have done it, and an erasure of nothing has no row.
        let (by_another, rest) = (self.finished(erasure).await?, self.rest(erasure).await?);
        Ok(match by_another {
            Some(erased) => Progress::Finished(erased),
            None => Progress::Waiting(rest),
        })
    }

    /// What is left to do.
    pub(crate) async fn rest(&self, erasure: Erasure) -> Result<ErasureRest, StoreError> {
        self.store
            .read(move |tx| Box::pin(async move { tx.erasure_rest(&erasure).await }))
            .await
    }

    async fn finished(&self, erasure: Erasure) -> Result<Option<Erased>, StoreError> {
        self.store
            .read(move |tx| Box::pin(async move { tx.erasure_finished(erasure.id).await }))
            .await
    }

    async fn empty_events(
        &self,
        erasure: Erasure,
        must_stop: MustStop<'_>,
    ) -> Result<(), StoreError> {
        while !must_stop() {
            let changed: u64 = self
                .store
                .write(move |tx| {
                    Box::pin(async move {
                        tx.erasure_empty_events(&erasure, PAGE, without_person)
                            .await
                    })
                })
                .await?;
            if changed == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn delete_chats(
        &self,
        erasure: Erasure,
        must_stop: MustStop<'_>,
    ) -> Result<(), StoreError> {
        let Erasure {
            tenant_id, user_id, ..
        } = erasure;
        loop {
            let chats: Vec<ChatId> = self
                .store
                .read(move |tx| {
                    Box::pin(async move { tx.erasure_live_chats(&erasure, PAGE).await })
                })
                .await?;
            for chat in &chats {
                if must_stop() {
                    return Ok(());
                }
                let deletion = ChatDeletion::new(tenant_id, user_id, *chat, self.clock.now());
                deletion.run(&self.store, &self.outbox).await?;
            }
            if chats.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    async fn empty_chats(
        &self,
        erasure: Erasure,
        must_stop: MustStop<'_>,
    ) -> Result<(), StoreError> {
        let mut after = ChatId(Uuid::nil());
        loop {
            let chats: Vec<ChatId> = self
                .store
                .read(move |tx| {
                    Box::pin(async move { tx.erasure_ready_chats(&erasure, after, PAGE).await })
                })
                .await?;
            let Some(last) = chats.last() else {
                return Ok(());
            };
            after = *last;
            for chat in chats {
                if must_stop() {
                    return Ok(());
                }
                let now = self.clock.now();
                let emptied: Result<(), StoreError> = self
                    .store
                    .write(move |tx| {
                        Box::pin(async move { tx.erasure_empty_chat(&erasure, chat, now).await })
                    })
                    .await;
                emptied?;
            }
        }
    }
}

/// An audit event under the id of the erasure. What cannot be read keeps its form.
fn without_person(payload: &str, erasure: &Erasure) -> String {
    let event = match serde_json::from_str(payload) {
        Ok(event) => without_content(event).to_string(),
        Err(_) => payload.to_owned(),
    };
    event.replace(&erasure.user_id.to_string(), &erasure.id.to_string())
}

#[cfg(test)]
mod tests {
    use minichat_core::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    /// PLAT-22
    #[test]
    fn an_audit_event_loses_its_person_and_what_was_written() {
        let erasure = Erasure {
            id: Uuid::from_u128(9),
            tenant_id: TenantId(Uuid::from_u128(1)),
            user_id: UserId(Uuid::from_u128(7)),
            requested_at: Timestamp::from_micros(0),
        };
        let event = json!({"user_id": erasure.user_id, "prompt": "who am I?", "n": 1});
        let changed = without_person(&event.to_string(), &erasure);
        let changed: Value = serde_json::from_str(&changed).unwrap();
        assert_eq!(changed, json!({"user_id": erasure.id, "n": 1}));
        assert_eq!(without_person("{", &erasure), "{");
    }
}
