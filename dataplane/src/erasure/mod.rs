//! Erases persons (PLAT-22). Each step is small and can be repeated, so whoever
//! comes next goes on: the request of the person, the command, or a pass of the
//! clean-up, which deletes the files at the provider.

pub mod command;

use std::sync::Arc;

use minichat_core::{ChatId, Clock, TenantId, UserId};
use minichat_store::{Erased, Erasure, ErasureRest, Store, StoreError};
use serde_json::Value;
use uuid::Uuid;

use crate::chat_deletion::ChatDeletion;
use crate::dead_letter::without_content;
use crate::outbox::Outbox;

/// Chats or erasures that are read at a time.
const PAGE: u32 = 100;

/// How far an erasure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// What it waits for.
    Waiting(ErasureRest),
    /// What it has changed. Nothing names the person any more.
    Finished(Erased),
}

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
        let (id, now) = (Uuid::new_v4(), self.clock.now());
        self.store
            .write(move |tx| Box::pin(async move { tx.erasure_begin(tenant, user, id, now).await }))
            .await
    }

    /// Does everything of an erasure that can be done now.
    pub(crate) async fn advance(&self, erasure: Erasure) -> Result<Progress, StoreError> {
        self.delete_chats(erasure).await?;
        self.empty_chats(erasure).await?;
        let rest: ErasureRest = self
            .store
            .read(move |tx| Box::pin(async move { tx.erasure_rest(&erasure).await }))
            .await?;
        if rest.chats > 0 {
            return Ok(Progress::Waiting(rest));
        }
        let now = self.clock.now();
        let erased: Option<Erased> = self
            .store
            .write(move |tx| {
                Box::pin(async move { tx.erasure_finish(&erasure, now, without_person).await })
            })
            .await?;
        Ok(erased.map_or(Progress::Waiting(rest), Progress::Finished))
    }

    async fn delete_chats(&self, erasure: Erasure) -> Result<(), StoreError> {
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
                let deletion = ChatDeletion::new(tenant_id, user_id, *chat, self.clock.now());
                deletion.run(&self.store, &self.outbox).await?;
            }
            if chats.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    async fn empty_chats(&self, erasure: Erasure) -> Result<(), StoreError> {
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

/// The members of an event that say whose it is.
const PERSONS: [&str; 2] = ["user_id", "actor_user_id"];

/// Whether an event is about `user`. What others wrote may contain the id as well.
pub(crate) fn is_about(event: &Value, user: UserId) -> bool {
    let user = user.to_string();
    let mut named = PERSONS.iter().filter_map(|name| event[*name].as_str());
    named.any(|id| id == user)
}

fn without_person(payload: &str, erasure: &Erasure) -> Option<String> {
    let event: Value = serde_json::from_str(payload).ok()?;
    if !is_about(&event, erasure.user_id) {
        return None;
    }
    let event = without_content(event).to_string();
    Some(event.replace(&erasure.user_id.to_string(), &erasure.id.to_string()))
}

#[cfg(test)]
mod tests {
    use minichat_core::Timestamp;
    use serde_json::json;

    use super::*;

    /// PLAT-22
    #[test]
    fn an_event_loses_its_person_and_what_was_written_and_no_other_event_does() {
        let person = UserId(Uuid::from_u128(7));
        let erasure = Erasure {
            id: Uuid::from_u128(9),
            tenant_id: TenantId(Uuid::from_u128(1)),
            user_id: person,
            requested_at: Timestamp::from_micros(0),
        };
        let other = UserId(Uuid::from_u128(8));
        let event =
            |user: UserId| json!({"user_id": user, "prompt": format!("who is {person}?"), "n": 1});
        let changed = without_person(&event(person).to_string(), &erasure).unwrap();
        let changed: Value = serde_json::from_str(&changed).unwrap();
        assert_eq!(changed, json!({"user_id": erasure.id, "n": 1}));
        assert_eq!(without_person(&event(other).to_string(), &erasure), None);
        let actor = json!({"actor_user_id": person}).to_string();
        assert!(without_person(&actor, &erasure).is_some());
        assert_eq!(without_person("{", &erasure), None);
    }
}
