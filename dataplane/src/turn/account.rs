//! The account of a turn: its owner and its price.
//! Besides the turn's row, finalization needs nothing else. So the process that
//! runs a turn and a process that only finds its row settle it in the same way
//! (TURN-32, TURN-56).

use std::sync::Arc;

use minichat_core::quota::{Pricing, Reserve, Tier};
use minichat_core::summary::Trigger;
use minichat_core::{ChatId, Date, RequestId, TenantId, TurnId, UserId};
use minichat_store::{Orphan, QuotaDay};
use uuid::Uuid;

use super::attachments::AttachedFile;
use super::open::OpenTurn;
use super::{audit_content, instrumentation, summary_request};
use crate::caller::RequesterType;
use crate::outbox::Outbox;

/// Whom to charge, for what, and at which price.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) tenant_id: TenantId,
    pub(crate) user_id: Option<UserId>,
    pub(crate) chat_id: ChatId,
    pub(crate) turn_id: TurnId,
    pub(crate) request_id: RequestId,
    pub(crate) requester_type: RequesterType,
    pub(crate) selected_model: Arc<str>,
    pub(crate) effective_model: Arc<str>,
    /// The day of the reserve's daily cell (QUOTA-54).
    pub(crate) day: Date,
    pub(crate) policy_version: u64,
    /// `None`: the turn never had a reserve, and nothing is booked.
    pub(crate) price: Option<Price>,
    /// What its row holds of it, as far as this process knows.
    pub(crate) reserve: Option<Reserve>,
    pub(crate) decision: QuotaDecision,
    /// The trace id of the request, 32 hex digits.
    pub(crate) trace_id: Option<String>,
    /// Where its end is reported.
    pub(crate) outbox: Arc<Outbox>,
    /// The user's message, if the configuration that the turn pinned asks for texts
    /// in audit events (PLAT-85).
    pub(crate) audited_prompt: Option<Arc<str>>,
    /// When its end asks for a thread summary; `None`: never.
    pub(crate) summary: Option<Trigger>,
    /// The files of the user's message, as far as this process knows.
    pub(crate) attachments: Arc<[AttachedFile]>,
}

/// The effective model's part of the applied policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Price {
    pub(crate) tier: Tier,
    pub(crate) pricing: Pricing,
    /// Whole per cent by which usage may exceed the reserve (QUOTA-34).
    pub(crate) overshoot_tolerance_pct: u32,
}

/// Why the effective model was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QuotaDecision {
    Allow,
    Downgrade(&'static str),
    /// Only the process that made the decision knew it (TURN-60).
    Unknown,
}

impl Account {
    /// The account of a turn of this process.
    pub(super) fn of_open(turn: &OpenTurn) -> Self {
        let (ids, caller, plan) = (turn.ids(), &turn.caller, &turn.plan);
        let limits = caller.tenant.config.limits_for(caller.user_id);
        let reason = instrumentation::reason_text(plan.downgrade_reason());
        Self {
            tenant_id: caller.tenant_id,
            user_id: Some(caller.user_id),
            chat_id: ids.chat_id,
            turn_id: ids.turn_id,
            request_id: ids.request_id,
            requester_type: caller.requester_type,
            selected_model: Arc::clone(&plan.draft.selected_model),
            effective_model: Arc::clone(&turn.labels.model),
            day: plan.draft.started_at.date(),
            policy_version: plan.policy_version(),
            price: Some(Price {
                tier: plan.model().tier,
                pricing: plan.model().pricing,
                overshoot_tolerance_pct: limits.overshoot_tolerance_pct,
            }),
            reserve: Some(plan.reserve),
            decision: reason.map_or(QuotaDecision::Allow, QuotaDecision::Downgrade),
            trace_id: Some(turn.request.trace.trace_id()),
            outbox: Arc::clone(&turn.app.outbox),
            audited_prompt: audit_content::is_included(
                caller.tenant.config.document.audit_sink.as_ref(),
            )
            .then(|| Arc::clone(&plan.draft.content)),
            summary: summary_request::trigger(turn),
            attachments: plan.draft.attachments.audited(),
        }
    }

    /// The account of a turn whose process is gone. `price` comes from its
    /// stored policy, which also says whether there is an `audited_prompt`.
    pub(crate) fn of_row(
        row: &Orphan,
        price: Option<Price>,
        audited_prompt: Option<Arc<str>>,
        outbox: Arc<Outbox>,
    ) -> Self {
        let selected_model: Arc<str> = row.selected_model.as_str().into();
        let effective_model = match &row.effective_model {
            Some(model) => model.as_str().into(),
            None => Arc::clone(&selected_model),
        };
        let requester_type = match row.requester_type.as_str() {
            "system" => RequesterType::System,
            _ => RequesterType::User,
        };
        Self {
            tenant_id: row.tenant_id,
            user_id: row.requester_user_id,
            chat_id: row.chat_id,
            turn_id: row.key.turn_id,
            request_id: row.request_id,
            requester_type,
            selected_model,
            effective_model,
            day: row.reserve_day.unwrap_or_else(|| row.started_at.date()),
            policy_version: row.policy_version_applied.unwrap_or_default(),
            price,
            reserve: None,
            decision: QuotaDecision::Unknown,
            trace_id: None,
            outbox,
            audited_prompt,
            // A turn whose process is gone is never completed.
            summary: None,
            attachments: Arc::default(),
        }
    }

    /// The user's cells that hold the reserve.
    pub(super) fn scope(&self) -> QuotaDay {
        QuotaDay {
            tenant_id: self.tenant_id,
            user_id: self.user_or_nil(),
            day: self.day,
        }
    }

    /// The user, or the nil id if there is none (PLAT-83).
    pub(super) fn user_or_nil(&self) -> UserId {
        self.user_id.unwrap_or(UserId(Uuid::nil()))
    }

    /// The selected model, if another one answered (QUOTA-66).
    pub(super) fn downgrade_from(&self) -> Option<&str> {
        (self.selected_model != self.effective_model).then_some(&*self.selected_model)
    }

    pub(super) const fn downgrade_reason(&self) -> Option<&'static str> {
        match self.decision {
            QuotaDecision::Downgrade(reason) => Some(reason),
            QuotaDecision::Allow | QuotaDecision::Unknown => None,
        }
    }
}
