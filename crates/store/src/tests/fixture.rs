//! A fresh database with one chat, and the steps of a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minichat_core::quota::{Bucket, Period};
use minichat_core::turn::{Outcome, SettlementMethod, Usage};
use minichat_core::{
    ChatId, Clock, MessageId, ProcessId, RequestId, TenantId, Timestamp, TurnId, UserId,
};
use tempfile::TempDir;

use crate::testing::TestPostgres;
use crate::tx::only_column;
use crate::value::Param;
use crate::{
    AdmissionFacts, AdmissionQuery, DatabaseSettings, FinishedTurn, NewChat, NewMessage, NewTurn,
    QuotaCells, QuotaDay, Role, SettlementBooking, Store, StoreError, TurnFinish, TurnSettlement,
    Tx,
};

/// 2026-03-10T12:00:00Z
pub(super) const NOON: Timestamp = Timestamp::from_micros(1_773_144_000_000_000);
pub(super) const RESERVE: u64 = 1_000;

/// Makes two tests of one function: `name::sqlite` and `name::postgres`.
macro_rules! on_both_databases {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident: $type:ty) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn claim($db: $type) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                claim(Db::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                claim(Db::postgres().await).await;
            }
        }
    )*};
}
pub(super) use on_both_databases;

/// A clock that a test sets.
pub(super) struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

pub(super) struct Db {
    pub(super) store: Store,
    pub(super) settings: DatabaseSettings,
    pub(super) clock: Arc<TestClock>,
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) chat: ChatId,
    pub(super) directory: Option<TempDir>,
}

impl Db {
    pub(super) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("chat.db").display());
        Self::open(url, Some(directory)).await
    }

    pub(super) async fn postgres() -> Self {
        let server = TestPostgres::shared().unwrap();
        Self::open(server.create_database().await.unwrap(), None).await
    }

    pub(super) async fn open(url: String, directory: Option<TempDir>) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(NOON.as_micros())));
        let settings = DatabaseSettings::new(url);
        let store = Store::open(&settings, clock.clone()).await.unwrap();
        let db = Self {
            store,
            settings,
            clock,
            tenant: TenantId::random(),
            user: UserId::random(),
            chat: ChatId::random(),
            directory,
        };
        db.insert_chat(db.user, db.chat, NOON).await;
        db
    }

    pub(super) async fn insert_chat(&self, user_id: UserId, id: ChatId, created_at: Timestamp) {
        let tenant_id = self.tenant;
        self.write(move |tx| {
            tx.chat_insert(&NewChat {
                id,
                tenant_id,
                user_id,
                model: "large",
                title: None,
                is_temporary: false,
                created_at,
            })
        })
        .await
        .unwrap();
    }

    /// Runs a job of posted statements.
    pub(super) async fn write(
        &self,
        job: impl Fn(&mut Tx) -> Result<(), StoreError> + Clone + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        self.store
            .write(move |tx| {
                let job = job.clone();
                Box::pin(async move { job(tx) })
            })
            .await
    }

    pub(super) async fn sql<const N: usize>(
        &self,
        sql: &'static str,
        params: [Param<'static>; N],
    ) -> Result<(), StoreError> {
        self.write(move |tx| tx.execute_later(sql, params.clone()))
            .await
    }

    /// The one integer that a query returns.
    pub(super) async fn count<const N: usize>(
        &self,
        sql: &'static str,
        params: [Param<'static>; N],
    ) -> i64 {
        self.store
            .read(move |tx| {
                let params = params.clone();
                Box::pin(async move { tx.query_opt(sql, &params, only_column).await })
            })
            .await
            .map_err(|error: StoreError| error)
            .unwrap()
            .unwrap()
    }

    pub(super) async fn facts(&self, request: RequestId, limit: u32) -> Option<AdmissionFacts> {
        self.facts_of(self.user, request, limit).await
    }

    pub(super) async fn facts_of(
        &self,
        user_id: UserId,
        request_id: RequestId,
        recent_messages_limit: u32,
    ) -> Option<AdmissionFacts> {
        let query = AdmissionQuery {
            tenant_id: self.tenant,
            user_id,
            chat_id: self.chat,
            request_id,
            recent_messages_limit,
            ignores_summary: false,
        };
        self.store
            .write(move |tx| Box::pin(async move { tx.turn_admission_facts(&query).await }))
            .await
            .map_err(|error: StoreError| error)
            .unwrap()
    }

    pub(super) async fn cells(&self, scope: QuotaDay) -> QuotaCells {
        self.store
            .read(move |tx| Box::pin(async move { tx.quota_cells(scope).await }))
            .await
            .map_err(|error: StoreError| error)
            .unwrap()
    }

    pub(super) fn send(&self, at: Timestamp) -> OneTurn {
        OneTurn {
            tenant: self.tenant,
            user: self.user,
            chat: self.chat,
            turn: TurnId::random(),
            request: RequestId::random(),
            at,
            premium: false,
            limit: u64::MAX,
            process: None,
        }
    }
}

/// One turn: reserve transaction, then finalization.
#[derive(Clone, Copy)]
pub(super) struct OneTurn {
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) chat: ChatId,
    pub(super) turn: TurnId,
    pub(super) request: RequestId,
    pub(super) at: Timestamp,
    pub(super) premium: bool,
    /// Daily limit in micro-credits.
    pub(super) limit: u64,
    pub(super) process: Option<ProcessId>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("quota exceeded")]
    QuotaExceeded,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OneTurn {
    pub(super) fn scope(&self) -> QuotaDay {
        QuotaDay {
            tenant_id: self.tenant,
            user_id: self.user,
            day: self.at.date(),
        }
    }

    pub(super) async fn reserve(self, store: &Store) -> Result<(), SendError> {
        store.write(move |tx| Box::pin(self.reserve_in(tx))).await
    }

    pub(super) async fn reserve_in(self, tx: &mut Tx) -> Result<(), SendError> {
        let cells = tx.quota_lock(self.scope()).await?;
        let used = cells.used_credits_micro(Period::Daily, Bucket::Total);
        if used + RESERVE > self.limit {
            return Err(SendError::QuotaExceeded);
        }
        tx.quota_reserve(self.scope(), self.premium, RESERVE, self.at)?;
        tx.message_insert(&self.message(MessageId::random(), Role::User, "hello"))?;
        tx.turn_insert(&self.new_turn())?;
        tx.chat_touch(self.tenant, self.user, self.chat, self.at)?;
        Ok(())
    }

    pub(super) fn new_turn(&self) -> NewTurn<'static> {
        NewTurn {
            id: self.turn,
            tenant_id: self.tenant,
            chat_id: self.chat,
            request_id: self.request,
            requester_user_id: self.user,
            provider_name: "scripted",
            effective_model: "large",
            reserve_tokens: 100,
            reserved_credits_micro: RESERVE,
            policy_version_applied: 7,
            max_output_tokens_applied: 50,
            minimal_generation_floor_applied: 10,
            reserve_day: self.at.date(),
            web_search_enabled: false,
            started_at: self.at,
            process_id: self.process,
        }
    }

    pub(super) fn message<'a>(
        &self,
        id: MessageId,
        role: Role,
        content: &'a str,
    ) -> NewMessage<'a> {
        NewMessage {
            id,
            tenant_id: self.tenant,
            chat_id: self.chat,
            request_id: self.request,
            role,
            content,
            provider_response_id: None,
            usage: Usage::default(),
            model: None,
            created_at: self.at,
        }
    }

    pub(super) fn finish(&self, outcome: Outcome) -> TurnFinish<'static> {
        TurnFinish {
            tenant_id: self.tenant,
            turn_id: self.turn,
            outcome,
            provider_response_id: Some("resp_1"),
            finalization_id: uuid::Uuid::new_v4(),
            orphan: None,
        }
    }

    pub(super) fn settlement(&self, now: Timestamp) -> SettlementBooking {
        SettlementBooking {
            scope: self.scope(),
            premium: self.premium,
            reserved_credits_micro: RESERVE,
            committed_credits_micro: 600,
            usage: Usage {
                input_tokens: 50,
                output_tokens: 2,
                ..Usage::default()
            },
            file_search_calls: 0,
            web_search_calls: 1,
            code_interpreter_calls: 0,
            now,
        }
    }

    /// Finalizes the turn as completed. Returns whether this call won.
    pub(super) async fn complete(self, store: &Store) -> Result<bool, StoreError> {
        let won = store
            .write(move |tx| Box::pin(self.complete_in(tx)))
            .await?;
        Ok(won.is_some())
    }

    async fn complete_in(self, tx: &mut Tx) -> Result<Option<FinishedTurn>, StoreError> {
        let finish = self.finish(Outcome::Completed(None));
        let Some(finished) = tx.turn_finish(&finish, self.scope()).await? else {
            return Ok(None);
        };
        let settlement = self.settlement(finished.now);
        let faults = tx.quota_settle(&settlement, &finished.cells)?;
        assert_eq!(faults, []);
        let id = MessageId::random();
        tx.message_insert(&NewMessage {
            model: Some("large"),
            usage: settlement.usage,
            created_at: finished.now,
            ..self.message(id, Role::Assistant, "hi there")
        })?;
        tx.turn_set_settlement(
            self.tenant,
            self.turn,
            &TurnSettlement {
                committed_credits_micro: settlement.committed_credits_micro,
                method: SettlementMethod::Actual,
                assistant_message_id: Some(id),
            },
        )?;
        Ok(Some(finished))
    }
}
