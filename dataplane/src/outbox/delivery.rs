//! The events of one tenant in one pass.

use std::sync::Arc;
use std::time::Duration;

use minichat_config::process::OutboxKind;
use minichat_metrics::{AuditResult, OutboxHandled};
use minichat_store::{Delivery, Holder, PendingMessage, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handler::{self, Slice, Target};
use super::permits::Permit;
use super::shared::Shared;
use super::webhook::Answer;
use super::{backoff, label, wake};

/// A delivery that takes longer is parked while it runs.
const SLOW: Duration = Duration::from_millis(250);
/// For how long at a time, so that another process takes over from one that was
/// killed, and how often this is renewed.
const PARKED: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(3);

/// A tenant with its first messages, whose turn it is.
pub(super) struct TenantDelivery {
    pub(super) shared: Arc<Shared>,
    pub(super) kind: OutboxKind,
    pub(super) target: Target,
    pub(super) delivery: Delivery,
    /// Failed and slow deliveries before.
    pub(super) attempts: u32,
    /// In their order.
    pub(super) messages: Vec<PendingMessage>,
    /// No request begins later.
    pub(super) until: Instant,
    /// By when the running delivery must end, once it is parked.
    pub(super) parked_until: Option<Instant>,
    /// Among deliveries that are not slow, or among those that are.
    pub(super) permit: Option<Permit>,
}

/// What a pass learns of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// All messages were delivered or moved away; there may be more.
    Advanced,
    /// The tenant waits: it is parked, or its batch is not full.
    Waits,
}

/// Why a delivery goes no further.
enum Stop {
    /// Somebody else delivers to the tenant now.
    NotHolder,
    /// Parked, with nothing more to do in this pass.
    Parked,
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl TenantDelivery {
    /// Delivers, and tells `left` when the pass may go on; it does not wait for a
    /// slow sink.
    pub(super) async fn run(mut self, left: oneshot::Sender<Left>) {
        let mut left = Some(left);
        let ended = self.deliver_all(&mut left).await;
        let said = match ended {
            Ok(said) => said,
            Err(Stop::Parked) => Left::Waits,
            Err(Stop::NotHolder) => {
                tracing::warn!(tenant_id = %self.delivery.tenant_id, kind = self.kind.as_str(), "a delivery ended after its lease; its end is not written");
                Left::Waits
            }
            Err(Stop::Store(error)) => {
                tracing::warn!(tenant_id = %self.delivery.tenant_id, kind = self.kind.as_str(), %error, "the end of a delivery cannot be written; it will be repeated");
                Left::Waits
            }
        };
        match left.take() {
            Some(left) => {
                // The pass may be over.
                let _ = left.send(said);
            }
            // It was parked while it ran: there may be more of the tenant.
            None => self.want_again(),
        }
    }

    fn want_again(&self) {
        let place: wake::Place = (self.kind, self.delivery.partition);
        self.shared.wake(place);
    }

    /// Delivers what is due, for as long as a quick delivery may take, so that the
    /// other tenants of the partition have their turns.
    async fn deliver_all(
        &mut self,
        left: &mut Option<oneshot::Sender<Left>>,
    ) -> Result<Left, Stop> {
        let turn = Instant::now() + SLOW;
        while !self.messages.is_empty() {
            let now = self.shared.clock.now().as_micros();
            let count = handler::first_slice(&self.target, &self.messages, now);
            if count == 0 || Instant::now() >= self.until {
                return Ok(Left::Waits);
            }
            let slice: Vec<_> = self.messages.drain(..count).collect();
            let is_settled = self.deliver_slice(&slice, turn, left).await?;
            // It gave its permit back, and the next pass goes on.
            if left.is_none() {
                return Ok(Left::Waits);
            }
            if !is_settled || Instant::now() >= turn {
                break;
            }
        }
        Ok(Left::Advanced)
    }

    /// Delivers events together. If one of them is refused, they are repeated one by
    /// one to find it. Returns whether each of them has an answer; after `turn`, the
    /// rest waits for the next pass.
    async fn deliver_slice(
        &mut self,
        slice: &[PendingMessage],
        turn: Instant,
        left: &mut Option<oneshot::Sender<Left>>,
    ) -> Result<bool, Stop> {
        let answer = self.hand_over(slice, left).await?;
        if slice.len() == 1 || !matches!(answer, Answer::Reject(_)) {
            self.settle(slice, answer).await?;
            return Ok(true);
        }
        let turn = turn.max(Instant::now() + SLOW);
        for one in slice.chunks(1) {
            if Instant::now() >= turn.min(self.until) {
                return Ok(false);
            }
            let answer = self.hand_over(one, left).await?;
            self.settle(one, answer).await?;
            // A delivery that was parked ends with its first message.
            if left.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn settle(&mut self, slice: &[PendingMessage], answer: Answer) -> Result<(), Stop> {
        match answer {
            Answer::Ok => self.acknowledge(slice).await,
            Answer::Retry(error) => self.retry(slice, &error).await,
            Answer::Reject(reason) => self.reject_all(slice, &reason).await,
        }
    }

    /// One attempt. After [`SLOW`], or at once if the last one was slow, the tenant is
    /// parked while it runs.
    async fn hand_over(
        &mut self,
        slice: &[PendingMessage],
        left: &mut Option<oneshot::Sender<Left>>,
    ) -> Result<Answer, Stop> {
        let shared = Arc::clone(&self.shared);
        let target = self.target.clone();
        let limit = Instant::now() + shared.config.handler_limit();
        let deadline = self.parked_until.unwrap_or(limit);
        let request = Slice {
            kind: self.kind,
            tenant_id: self.delivery.tenant_id,
            messages: slice,
            deadline,
        };
        let (kind, tenant) = (self.kind, self.delivery.tenant_id);
        let patience = if shared.slow.contains(kind, tenant) {
            Duration::ZERO
        } else {
            SLOW
        };
        let began = Instant::now();
        let mut answer = std::pin::pin!(handler::deliver(&shared, &target, &request));
        let quick = tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            () = tokio::time::sleep(patience), if left.is_some() => None,
        };
        if let Some(answer) = quick {
            return Ok(self.handled(slice, answer));
        }
        let bytes = slice.iter().map(|it| it.payload.len()).sum();
        let Some(permit) = shared.permits.slow(bytes) else {
            let error = "too many deliveries are slow at a time";
            self.handled(slice, Answer::Retry(error.to_owned()));
            return Err(self.park(error).await);
        };
        self.park_running(deadline).await?;
        self.permit = Some(permit);
        // They are listed again, and need no memory until then.
        self.messages = Vec::new();
        if let Some(left) = left.take() {
            // The pass may be over.
            let _ = left.send(Left::Waits);
        }
        let answer = self.await_parked(answer, deadline).await?;
        shared.slow.note(kind, tenant, began.elapsed() >= SLOW);
        Ok(self.handled(slice, answer))
    }

    /// PLAT-33: at the deadline the future is dropped, which counts as a retry.
    async fn await_parked(
        &self,
        mut answer: impl Future<Output = Answer> + Unpin,
        deadline: Instant,
    ) -> Result<Answer, Stop> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(Answer::Retry("no answer within the lease".to_owned()));
            }
            let next = deadline.min(now + RENEW);
            if let Ok(answer) = tokio::time::timeout_at(next, &mut answer).await {
                return Ok(answer);
            }
            if let Holder::OfTenant(token) = &self.delivery.holder
                && !self.shared.is_alone
            {
                let records = &self.shared.records;
                let wait = self.parked_for(deadline);
                // A database that cannot serve is asked again.
                if let Ok(false) = records.renew(&self.delivery, token, wait).await {
                    return Err(Stop::NotHolder);
                }
            }
        }
    }

    /// When another process may deliver to a tenant whose delivery runs, unless that is
    /// renewed.
    fn parked_for(&self, deadline: Instant) -> Duration {
        let whole =
            deadline.saturating_duration_since(Instant::now()) + self.shared.config.ack_headroom;
        if self.shared.is_alone {
            whole
        } else {
            whole.min(PARKED)
        }
    }

    fn handled(&self, slice: &[PendingMessage], answer: Answer) -> Answer {
        let metrics = &self.shared.metrics;
        let (handled, audit) = match &answer {
            Answer::Ok => (OutboxHandled::Success, AuditResult::Ok),
            Answer::Retry(_) => (OutboxHandled::Retry, AuditResult::Retry),
            Answer::Reject(_) if slice.len() > 1 => (OutboxHandled::Retry, AuditResult::Retry),
            Answer::Reject(_) => (OutboxHandled::Reject, AuditResult::Reject),
        };
        metrics.outbox_handler(label(self.kind), handled);
        if self.kind == OutboxKind::Audit {
            metrics.audit_emit(audit);
        }
        if answer == Answer::Ok {
            let now = self.shared.clock.now().as_micros();
            for message in slice {
                let age = now.saturating_sub(message.created_at.as_micros());
                let age = Duration::from_micros(u64::try_from(age).unwrap_or_default());
                metrics.outbox_pending_age_seconds(label(self.kind), age);
            }
        }
        answer
    }

    async fn park_running(&mut self, deadline: Instant) -> Result<(), Stop> {
        let token = self.shared.next_token();
        let wait = self.parked_for(deadline);
        let records = &self.shared.records;
        if !records.park_running(&self.delivery, &token, wait).await? {
            return Err(Stop::NotHolder);
        }
        self.delivery.holder = Holder::OfTenant(token);
        self.parked_until = Some(deadline);
        self.delivery.is_parked = true;
        self.attempts = self.attempts.saturating_add(1);
        Ok(())
    }

    async fn acknowledge(&mut self, slice: &[PendingMessage]) -> Result<(), Stop> {
        if !self
            .shared
            .records
            .acknowledge(&self.delivery, slice)
            .await?
        {
            return Err(Stop::NotHolder);
        }
        self.succeeded();
        Ok(())
    }

    /// What the tenant was parked for is over.
    fn succeeded(&mut self) {
        if self.delivery.is_parked {
            self.shared.survey.outdate();
        }
        self.delivery.is_parked = false;
        self.attempts = 0;
    }

    /// A delivery that was parked while it ran has been counted.
    const fn attempt(&self) -> u32 {
        match self.delivery.holder {
            Holder::OfPartition(_) => self.attempts.saturating_add(1),
            Holder::OfTenant(_) => self.attempts,
        }
    }

    async fn retry(&mut self, slice: &[PendingMessage], error: &str) -> Result<(), Stop> {
        let (attempt, most) = (self.attempt(), self.shared.config.max_attempts(self.kind));
        if most > 0 && attempt >= most {
            let reason = format!("{error} (attempt {attempt}, the last one)");
            return self.reject_all(slice, &reason).await;
        }
        Err(self.park(error).await)
    }

    /// The tenant waits for its next attempt.
    async fn park(&self, error: &str) -> Stop {
        let (attempt, config) = (self.attempt(), &self.shared.config);
        let wait = backoff::wait(config.backoff_base, config.backoff_max, attempt);
        tracing::warn!(tenant_id = %self.delivery.tenant_id, kind = self.kind.as_str(), attempt, wait_ms = wait.as_millis(), error, "events cannot be delivered yet");
        match self.shared.records.park(&self.delivery, wait, error).await {
            Ok(true) => {}
            Ok(false) => return Stop::NotHolder,
            Err(error) => return error.into(),
        }
        if attempt == 1 {
            self.shared.survey.outdate();
        }
        let place = (self.kind, self.delivery.partition);
        self.shared.wake_after(wait, place);
        Stop::Parked
    }

    async fn reject_all(&mut self, slice: &[PendingMessage], reason: &str) -> Result<(), Stop> {
        let attempt = self.attempt();
        for message in slice {
            tracing::error!(tenant_id = %self.delivery.tenant_id, kind = self.kind.as_str(), message.id, key = message.key(), reason, "an event was refused and becomes a dead letter");
        }
        let ids = slice.iter().map(|it| it.id).collect();
        let records = &self.shared.records;
        let is_holder = records.reject(&self.delivery, ids, attempt, reason);
        if !is_holder.await? {
            return Err(Stop::NotHolder);
        }
        self.succeeded();
        self.shared.survey.outdate();
        Ok(())
    }
}
