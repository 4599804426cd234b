//! The ways to begin a turn, and the checks that come before any decision about
//! quota: those of a send (API-64 a to e), and those of a retry or an edit
//! (API-71). They run inside the reserve transaction, which sees the chat as it
//! is and holds the locks of its user, or writes only if nothing has changed: so
//! nothing they find changes before the turn is written.

use std::sync::Arc;

use minichat_core::context::Role;
use minichat_core::quota::{Cells, RequestFacts};
use minichat_core::summary::with_preamble;
use minichat_core::turn::TurnState;
use minichat_core::{AttachmentId, ChatId, ErrorCode, MessageId, RequestId, Timestamp, TurnId};
use minichat_store::{AdmissionFacts, AdmissionQuery, StoreError, TargetTurn, ToolFiles, Tx};

use super::SendMessage;
use super::attachments::{self, Attachments};
use super::mutation::{self, Replaced, Replacement};
use super::open::{Draft, DraftSummary, Ids};
use super::replay::CompletedTurn;
use super::reserve::ReserveError;
use super::tools;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::quota;

/// A request for a turn, with all ids of the turn.
pub(super) struct TurnRequest {
    pub(super) ids: Ids,
    kind: Kind,
}

enum Kind {
    Send(Message),
    Replace {
        target: RequestId,
        change: Replacement,
    },
}

/// What enters a draft from the client, or from the turn that it replaces.
#[derive(Clone)]
struct Message {
    content: Arc<str>,
    /// What the client named; a turn that replaces another one copies.
    attachment_ids: Arc<[AttachmentId]>,
    web_search: bool,
    replaces: Option<Replaced>,
}

impl TurnRequest {
    /// A message that a client sent at `now`.
    pub(super) fn send(chat_id: ChatId, message: SendMessage, now: Timestamp) -> Self {
        let request_id = message.request_id.unwrap_or_else(RequestId::random);
        Self {
            ids: Ids::new(chat_id, request_id, now),
            kind: Kind::Send(Message {
                content: message.content.into(),
                attachment_ids: message.attachment_ids.into(),
                web_search: message.web_search,
                replaces: None,
            }),
        }
    }

    /// A turn that replaces the chat's newest one, which `target` must name.
    /// The new turn gets its own request id (API-72).
    pub(super) fn replace(
        chat_id: ChatId,
        target: RequestId,
        change: Replacement,
        now: Timestamp,
    ) -> Self {
        Self {
            ids: Ids::new(chat_id, RequestId::random(), now),
            kind: Kind::Replace { target, change },
        }
    }

    /// What a message needs to be admitted without locks; `None`: it needs them,
    /// because it takes the place of a turn or has files.
    pub(super) fn snapshot_query(&self, caller: &Caller) -> Option<AdmissionQuery> {
        match &self.kind {
            Kind::Send(message) if message.attachment_ids.is_empty() => {
                Some(query(caller, self.ids.chat_id, self.ids.request_id))
            }
            Kind::Send(_) | Kind::Replace { .. } => None,
        }
    }

    /// Admits a message into a chat that was read without locks.
    pub(super) fn admit_snapshot(
        &self,
        caller: &Caller,
        facts: AdmissionFacts,
        files: ToolFiles,
    ) -> Result<(Draft, Cells), ReserveError> {
        let Kind::Send(message) = &self.kind else {
            return Err(Problem::internal().into());
        };
        check_key(&facts)?;
        let attachments = Attachments::default();
        self.admit_message(caller, message.clone(), attachments, (facts, files))
    }

    /// Admits it, with the user's cells as they were read and locked.
    pub(super) async fn admit(
        &self,
        tx: &mut Tx,
        caller: &Caller,
    ) -> Result<(Draft, Cells), ReserveError> {
        let chat = self.ids.chat_id;
        match &self.kind {
            Kind::Send(message) => {
                let facts = read(tx, caller, chat, self.ids.request_id).await?;
                check_key(&facts)?;
                let ids = &message.attachment_ids;
                let attachments = attachments::named(tx, caller, chat, ids).await?;
                let files = tool_files(tx, caller, chat, &facts).await?;
                self.admit_message(caller, message.clone(), attachments, (facts, files))
            }
            Kind::Replace { target, change } => {
                let mut facts = read(tx, caller, chat, *target).await?;
                let query = mutation::query(caller, chat, *target);
                let turn = mutation::check(tx.turn_mutation_lock(&query).await?, caller)?;
                if turn.is_summarized {
                    // The summary goes with the turn (CONT-141).
                    facts = read_without_summary(tx, caller, chat, *target).await?;
                }
                let attachments = if turn.has_attachments {
                    attachments::copied(tx, &query).await?
                } else {
                    Attachments::default()
                };
                let message = replacing(turn, *target, change)?;
                let files = tool_files(tx, caller, chat, &facts).await?;
                self.admit_message(caller, message, attachments, (facts, files))
            }
        }
    }

    fn admit_message(
        &self,
        caller: &Caller,
        message: Message,
        attachments: Attachments,
        (facts, files): (AdmissionFacts, ToolFiles),
    ) -> Result<(Draft, Cells), ReserveError> {
        if facts.is_running {
            return Err(generation_in_progress().into());
        }
        attachments.check_number(&caller.tenant.config)?;
        check_web_search(caller, message.web_search)?;
        let cells = quota::cells(&facts.quota);
        let guards = &caller.tenant.config.context;
        let mut draft = self.draft(message, attachments, (facts, files));
        draft.facts.web_search_guard_bytes = guards.web_search_guard.len() as u64;
        draft.facts.file_search_guard_bytes = guards.file_search_guard.len() as u64;
        Ok((draft, cells))
    }

    fn draft(
        &self,
        message: Message,
        attachments: Attachments,
        (facts, files): (AdmissionFacts, ToolFiles),
    ) -> Draft {
        let recent: Vec<(Role, String)> = facts
            .recent_messages
            .into_iter()
            .filter_map(|message| Some((role(message.role)?, message.content)))
            .collect();
        let summary = facts.summary.map(|summary| DraftSummary {
            text: with_preamble(&summary.text),
            token_estimate: summary.token_estimate,
        });
        Draft {
            ids: self.ids,
            facts: RequestFacts {
                message_bytes: message.content.len() as u64,
                prior_context_tokens: facts.prior_context_tokens,
                images: attachments.images(),
                web_search_requested: message.web_search,
                has_documents: files.vector_store.is_some(),
                has_code_files: !files.code_files.is_empty(),
                ..RequestFacts::default()
            },
            files,
            started_at: facts.now,
            selected_model: facts.model.into(),
            content: message.content,
            web_search_enabled: message.web_search,
            attachments,
            summary,
            recent: Arc::from(recent),
            replaces: message.replaces,
        }
    }
}

impl Ids {
    fn new(chat_id: ChatId, request_id: RequestId, now: Timestamp) -> Self {
        Self {
            chat_id,
            turn_id: TurnId::at(now),
            request_id,
            user_message_id: MessageId::at(now),
            // The contract demands version 4 (TURN-14).
            assistant_message_id: MessageId::random(),
        }
    }
}

async fn read(
    tx: &mut Tx,
    caller: &Caller,
    chat_id: ChatId,
    request_id: RequestId,
) -> Result<AdmissionFacts, ReserveError> {
    let query = query(caller, chat_id, request_id);
    let facts = tx.turn_admission_facts(&query).await?;
    facts.ok_or_else(|| Problem::chat_not_found().into())
}

/// The same without the chat's summary, which is about to go.
async fn read_without_summary(
    tx: &mut Tx,
    caller: &Caller,
    chat_id: ChatId,
    request_id: RequestId,
) -> Result<AdmissionFacts, ReserveError> {
    let query = AdmissionQuery {
        ignores_summary: true,
        ..query(caller, chat_id, request_id)
    };
    let facts = tx.turn_admission_facts(&query).await?;
    facts.ok_or_else(|| Problem::chat_not_found().into())
}

/// What tools find in the chat, if any model could use it.
async fn tool_files(
    tx: &mut Tx,
    caller: &Caller,
    chat: ChatId,
    facts: &AdmissionFacts,
) -> Result<ToolFiles, StoreError> {
    if !tools::need_files(&caller.tenant.config, facts) {
        return Ok(ToolFiles::default());
    }
    tx.tool_files(caller.tenant_id, chat).await
}

fn query(caller: &Caller, chat_id: ChatId, request_id: RequestId) -> AdmissionQuery {
    AdmissionQuery {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        chat_id,
        request_id,
        recent_messages_limit: caller.tenant.config.context.recent_messages_limit,
        ignores_summary: false,
    }
}

/// Idempotency is checked before parallel turns, so that a replay works while
/// another turn runs (TURN-46).
fn check_key(facts: &AdmissionFacts) -> Result<(), ReserveError> {
    match &facts.existing_turn {
        None => Ok(()),
        Some(turn) if turn.state == TurnState::Completed && !turn.is_deleted => {
            Err(ReserveError::Replay(Box::new(CompletedTurn {
                turn: turn.clone(),
                selected_model: facts.model.clone(),
            })))
        }
        Some(_) => Err(request_id_conflict().into()),
    }
}

/// The message of a turn that replaces `turn`.
fn replacing(
    turn: TargetTurn,
    target: RequestId,
    change: &Replacement,
) -> Result<Message, Problem> {
    let replaced = mutation::deleted(&turn);
    let content = match change {
        Replacement::Edit { content } => content.as_str().into(),
        Replacement::Retry => turn.content.map(Arc::from).ok_or_else(|| {
            tracing::error!(turn.id = %turn.id, "a turn has no message of its user");
            Problem::internal()
        })?,
    };
    Ok(Message {
        content,
        attachment_ids: Arc::default(),
        web_search: turn.web_search_enabled,
        replaces: Some(Replaced {
            op: change.op(),
            request_id: target,
            turn: replaced,
        }),
    })
}

/// Step 7 of TURN-9, for a requested and for an inherited web search.
fn check_web_search(caller: &Caller, requested: bool) -> Result<(), Problem> {
    if requested && caller.tenant.config.kill_switches.disable_web_search {
        return Err(Problem::new(
            ErrorCode::WebSearchDisabled,
            "Web search is switched off. Send the message without it.",
        ));
    }
    Ok(())
}

/// System rows are never part of a request (CONT-2).
const fn role(role: minichat_store::Role) -> Option<Role> {
    match role {
        minichat_store::Role::User => Some(Role::User),
        minichat_store::Role::Assistant => Some(Role::Assistant),
        minichat_store::Role::System => None,
    }
}

pub(super) fn request_id_conflict() -> Problem {
    Problem::new(
        ErrorCode::RequestIdConflict,
        "This request_id names a turn that cannot be replayed. Read the turn's status; send again with a new request_id.",
    )
}

pub(super) fn generation_in_progress() -> Problem {
    Problem::new(
        ErrorCode::GenerationInProgress,
        "Another answer is being generated in this chat. Wait for it to end.",
    )
}
