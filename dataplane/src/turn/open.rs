//! The stages of a turn on its way to the provider. A *request* is what the
//! client sent. A *draft* is a request whose chat was found. A *plan* is a
//! draft with a model, a price and a context. An *open turn* is a plan whose
//! reserve is committed. Only an open turn reaches the provider, and every open
//! turn is finalized (TURN-15).

use std::sync::Arc;

use minichat_config::{Model, Provider, Secret};
use minichat_core::context::Role;
use minichat_core::quota::{Decision, DowngradeReason, RequestFacts, Reserve};
use minichat_core::summary::ContextUse;
use minichat_core::{ChatId, MessageId, RequestId, Timestamp, TurnId};
use minichat_provider::InputMessage;
use minichat_store::ToolFiles;

use super::attachments::Attachments;
use super::mutation::Replaced;
use super::tools::PlannedTools;
use super::{RequestContext, relay};
use crate::app::App;
use crate::caller::Caller;
use crate::config_source::TenantRuntime;

/// A request whose chat was found and whose key is new.
pub(super) struct Draft {
    pub(super) ids: Ids,
    /// An instant of the database's clock, later than every other one in the
    /// chat (TURN-6). It also selects the quota periods (QUOTA-54).
    pub(super) started_at: Timestamp,
    /// The chat's model (API-145).
    pub(super) selected_model: Arc<str>,
    pub(super) content: Arc<str>,
    pub(super) web_search_enabled: bool,
    pub(super) attachments: Attachments,
    pub(super) facts: RequestFacts,
    /// What tools find in the chat.
    pub(super) files: ToolFiles,
    /// The thread summary of the chat.
    pub(super) summary: Option<DraftSummary>,
    /// The recent window in chronological order (CONT-5).
    pub(super) recent: Arc<[(Role, String)]>,
    /// The turn that this one replaces.
    pub(super) replaces: Option<Replaced>,
}

/// A thread summary for a prompt.
pub(super) struct DraftSummary {
    /// With its preamble (CONT-3).
    pub(super) text: String,
    pub(super) token_estimate: u32,
}

/// All ids of a turn, made before anything is written.
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the columns and events they appear in"
)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    pub(super) chat_id: ChatId,
    pub(super) turn_id: TurnId,
    pub(super) request_id: RequestId,
    pub(super) user_message_id: MessageId,
    /// Announced in `stream_started`. Its row is written at finalization.
    pub(super) assistant_message_id: MessageId,
}

/// A draft for which everything is decided.
pub(super) struct Plan {
    pub(super) draft: Draft,
    pub(super) decision: Decision,
    /// Index of the effective model in the catalog.
    model: usize,
    pub(super) reserve: Reserve,
    pub(super) context: PlannedContext,
    pub(super) tools: PlannedTools,
    tenant: Arc<TenantRuntime>,
}

/// The context plan (CONT-2), as ranges of the draft's data.
pub(super) struct PlannedContext {
    instructions: Option<String>,
    /// Whether the draft's summary is kept.
    has_summary: bool,
    /// Number of the draft's recent messages that are left out, oldest first.
    dropped: usize,
    context_use: ContextUse,
}

impl PlannedContext {
    pub(super) fn new(
        instructions: Option<String>,
        (has_summary, dropped): (bool, usize),
        context_use: ContextUse,
    ) -> Self {
        Self {
            instructions,
            has_summary,
            dropped,
            context_use,
        }
    }

    /// What decides about a thread summary (CONT-10).
    pub(super) const fn context_use(&self) -> ContextUse {
        self.context_use
    }

    pub(super) fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref()
    }
}

impl Plan {
    pub(super) fn new(
        tenant: Arc<TenantRuntime>,
        draft: Draft,
        decision: Decision,
        (model, reserve): (usize, Reserve),
        (context, tools): (PlannedContext, PlannedTools),
    ) -> Self {
        Self {
            draft,
            decision,
            model,
            reserve,
            context,
            tools,
            tenant,
        }
    }

    /// The effective model.
    pub(super) fn model(&self) -> &Model {
        &self.tenant.config.models[self.model]
    }

    /// The effective model's provider.
    pub(super) fn provider(&self) -> Option<&Provider> {
        self.tenant.config.provider_of(self.model())
    }

    /// The provider's credential, from the configuration that the turn pinned.
    pub(super) fn credential(&self) -> Option<&Secret> {
        self.tenant.credential_of(self.provider()?)
    }

    /// The conversation for the provider, the new message last.
    pub(super) fn messages(&self) -> Vec<InputMessage<'_>> {
        let kept = self.draft.recent.iter().skip(self.context.dropped);
        let kept = kept.map(|(role, text)| InputMessage {
            role: match role {
                Role::User => minichat_provider::Role::User,
                Role::Assistant => minichat_provider::Role::Assistant,
            },
            text,
            // Images are sent with their own turn only (CONT-71).
            image_file_ids: &[],
        });
        let summary = self.summary().map(|summary| InputMessage {
            role: minichat_provider::Role::User,
            text: &summary.text,
            image_file_ids: &[],
        });
        summary
            .into_iter()
            .chain(kept)
            .chain(std::iter::once(InputMessage {
                role: minichat_provider::Role::User,
                text: &self.draft.content,
                image_file_ids: self.draft.attachments.image_file_ids(),
            }))
            .collect()
    }

    /// The thread summary, if the plan keeps it.
    pub(super) fn summary(&self) -> Option<&DraftSummary> {
        let summary = self.draft.summary.as_ref();
        summary.filter(|_| self.context.has_summary)
    }

    pub(super) const fn ids(&self) -> &Ids {
        &self.draft.ids
    }

    /// The version of the policy that priced the reserve (QUOTA-33).
    pub(super) fn policy_version(&self) -> u64 {
        self.tenant.policy_version()
    }

    /// Whether the provider is configured, with a credential if it needs one.
    pub(super) fn is_routable(&self) -> bool {
        self.provider()
            .is_some_and(|provider| provider.auth.is_none() || self.credential().is_some())
    }

    pub(super) fn downgrade_reason(&self) -> Option<DowngradeReason> {
        match self.decision {
            Decision::Downgrade { reason, .. } => Some(reason),
            Decision::Allow { .. } | Decision::Reject { .. } => None,
        }
    }
}

/// A turn whose reserve is committed and whose outcome is not.
pub(super) struct OpenTurn {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) request: RequestContext,
    pub(super) plan: Plan,
    pub(super) labels: relay::Labels,
}

impl OpenTurn {
    pub(super) const fn ids(&self) -> &Ids {
        self.plan.ids()
    }
}
