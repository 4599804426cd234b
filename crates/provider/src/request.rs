//! The inputs of a generation call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minichat_config::Secret;
use minichat_config::tenant::{ApiParams, Provider, SearchContextSize};
use minichat_core::{ChatId, HostedTool, TenantId, UserId};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// One generation call: the provider, the credential and the request.
#[derive(Debug)]
pub struct ProviderCall<'a> {
    /// The effective model's provider.
    pub provider: &'a Provider,
    /// The credential that [`Provider::auth`] refers to. If `auth` is set and
    /// this is absent, the configuration is wrong, and nothing is sent.
    pub credential: Option<&'a Secret>,
    /// Sent as `X-Client-Request-Id` (PLAT-106).
    pub client_request_id: Option<&'a str>,
    /// The W3C `traceparent` header of the calling span.
    pub traceparent: Option<&'a str>,
    /// The request to the model.
    pub request: TurnRequest<'a>,
    /// Becomes true when the request was sent (QUOTA-61), and false again when
    /// the provider refuses it (D54). Keep a clone to read it after the call
    /// was dropped.
    pub started: StartedFlag,
}

/// The request to the model (CONT-31, CONT-35, CONT-36).
#[derive(Clone, Copy, Debug)]
pub struct TurnRequest<'a> {
    /// The model's name at the provider.
    pub provider_model_id: &'a str,
    /// System instructions; `None` or empty = not sent.
    pub instructions: Option<&'a str>,
    /// Conversation, oldest first, the new user message last.
    pub messages: &'a [InputMessage<'a>],
    /// Whether the answer is to be a stream; otherwise it is one document.
    pub is_streamed: bool,
    /// Output cap in tokens.
    pub max_output_tokens: u32,
    /// The tools that the provider may run for the model.
    pub tools: Tools<'a>,
    /// Cap on hosted tool calls; `None` = not sent.
    pub max_tool_calls: Option<u32>,
    /// Sampling parameters of the model.
    pub api_params: &'a ApiParams,
    /// Opaque id of the end user, see [`user_hash`].
    pub user: &'a str,
    /// Sent if the provider kind supports it and the provider allows it
    /// (PLAT-109).
    pub metadata: RequestMetadata,
}

/// The tools of a request (CONT-33). Only `openai_responses` sends them; requests to
/// other kinds must have none (CONT-37).
#[derive(Clone, Copy, Debug, Default)]
pub struct Tools<'a> {
    /// Search in the documents of the chat.
    pub file_search: Option<FileSearch<'a>>,
    /// Search in the web.
    pub web_search: Option<WebSearch>,
    /// The ids at the provider of the files that code can read. Empty: no code is
    /// run.
    pub code_interpreter_files: &'a [String],
}

/// The tool `file_search`.
#[derive(Clone, Copy, Debug)]
pub struct FileSearch<'a> {
    /// The id of the chat's store at the provider.
    pub vector_store_id: &'a str,
    /// Results of one search.
    pub max_num_results: u32,
}

/// The tool `web_search`.
#[derive(Clone, Copy, Debug)]
pub struct WebSearch {
    /// How much of what was found the model reads.
    pub context_size: SearchContextSize,
}

impl Tools<'_> {
    /// Whether `tool` is among them.
    pub const fn has(&self, tool: HostedTool) -> bool {
        match tool {
            HostedTool::FileSearch => self.file_search.is_some(),
            HostedTool::WebSearch => self.web_search.is_some(),
            HostedTool::CodeInterpreter => !self.code_interpreter_files.is_empty(),
        }
    }

    /// The names of the tools, joined by `+`, or `none` (CONT-32).
    pub(crate) fn feature(&self) -> String {
        let names = HostedTool::ALL.into_iter().filter(|&tool| self.has(tool));
        let names: Vec<_> = names.map(HostedTool::as_str).collect();
        if names.is_empty() {
            return "none".to_owned();
        }
        names.join("+")
    }
}

/// One message of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct InputMessage<'a> {
    /// The author.
    pub role: Role,
    /// The text.
    pub text: &'a str,
    /// Ids of the images at the provider, which follow the text; on user messages
    /// only.
    pub image_file_ids: &'a [String],
}

/// Author of a message. System text is sent as instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Opaque ids for the provider's abuse handling; no names (PLAT-109).
#[derive(Clone, Copy, Debug)]
pub struct RequestMetadata {
    /// The tenant whose configuration is used.
    pub tenant_id: TenantId,
    /// The user who sent the message; `None` = the system.
    pub user_id: Option<UserId>,
    /// The chat that the call serves.
    pub chat_id: ChatId,
    /// What the call is for.
    pub request_type: RequestType,
}

/// What a call is for (CONT-32).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestType {
    /// An answer to a person.
    Chat,
    /// A thread summary.
    Summary,
}

/// Lower-case hex SHA-256 of `{tenant_id}:{user_id}`: 64 characters that
/// identify an end user to the provider without revealing the user id
/// (PLAT-109, D8).
pub fn user_hash(tenant: TenantId, user: UserId) -> String {
    hash(&format!("{tenant}:{user}"))
}

/// The same for the tenant's system tasks (CONT-31).
pub fn system_hash(tenant: TenantId) -> String {
    hash(&format!("{tenant}:system"))
}

fn hash(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(text);
    let mut hex = String::with_capacity(64);
    for byte in digest {
        hex.push(char::from(HEX[usize::from(byte >> 4)]));
        hex.push(char::from(HEX[usize::from(byte & 15)]));
    }
    hex
}

/// Whether the whole request was handed to an established connection (QUOTA-61)
/// and the provider did not refuse the call (D54). Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StartedFlag(Arc<AtomicBool>);

impl StartedFlag {
    /// Whether the provider may be working, and charging.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Records that the provider refused the call, which therefore costs
    /// nothing (D54), even if an earlier attempt was sent.
    pub fn set_refused(&self) {
        self.0.store(false, Ordering::Release);
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}
