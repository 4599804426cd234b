//! What a generation call needs to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minichat_config::Secret;
use minichat_config::tenant::{ApiParams, Provider};
use minichat_core::{ChatId, TenantId, UserId};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// One generation call: where to, as whom, and what.
#[derive(Debug)]
pub struct ProviderCall<'a> {
    /// The effective model's provider.
    pub provider: &'a Provider,
    /// The credential that [`Provider::auth`] refers to. A provider with
    /// `auth` and no credential is a configuration error; nothing is sent.
    pub credential: Option<&'a Secret>,
    /// Sent as `X-Client-Request-Id` (PLAT-106).
    pub client_request_id: Option<&'a str>,
    /// The W3C `traceparent` header of the calling span.
    pub traceparent: Option<&'a str>,
    /// The question.
    pub request: TurnRequest<'a>,
    /// Becomes true when the request was sent (QUOTA-61), and false again when it
    /// is refused (D54). Keep a clone to read it when the call is given up.
    pub started: StartedFlag,
}

/// What is asked of the model (CONT-31, CONT-35, CONT-36).
#[derive(Clone, Copy, Debug)]
pub struct TurnRequest<'a> {
    /// The model's name at the provider.
    pub provider_model_id: &'a str,
    /// System instructions; `None` or empty = not sent.
    pub instructions: Option<&'a str>,
    /// Conversation, oldest first, the new user message last.
    pub messages: &'a [InputMessage<'a>],
    /// Output cap in tokens.
    pub max_output_tokens: u32,
    /// Cap on hosted tool calls; `None` = not sent.
    pub max_tool_calls: Option<u32>,
    /// Sampling parameters of the model.
    pub api_params: &'a ApiParams,
    /// Opaque id of the end user, see [`user_hash`].
    pub user: &'a str,
    /// Sent where the kind knows it and the provider allows it (PLAT-109).
    pub metadata: RequestMetadata,
}

/// One message of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct InputMessage<'a> {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub text: &'a str,
}

/// Author of a message. System text travels as instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Opaque ids that help the provider's abuse desk; no names (PLAT-109).
#[derive(Clone, Copy, Debug)]
pub struct RequestMetadata {
    /// Whose configuration pays.
    pub tenant_id: TenantId,
    /// Who asks; `None` = the system.
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

/// Lower-case hex SHA-256 of `{tenant_id}:{user_id}`: 64 characters that name
/// an end user at the provider without telling who it is (PLAT-109, D8).
pub fn user_hash(tenant: TenantId, user: UserId) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(format!("{tenant}:{user}"));
    let mut hex = String::with_capacity(64);
    for byte in digest {
        hex.push(char::from(HEX[usize::from(byte >> 4)]));
        hex.push(char::from(HEX[usize::from(byte & 15)]));
    }
    hex
}

/// Whether a request was handed completely to an established connection
/// (QUOTA-61), and the provider did not refuse the call (D54). Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct StartedFlag(Arc<AtomicBool>);

impl StartedFlag {
    /// Whether the provider must be assumed to work, and to charge.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Notes that the provider refused the call, which therefore costs nothing
    /// (D54), whatever became of an earlier attempt.
    pub fn set_refused(&self) {
        self.0.store(false, Ordering::Release);
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}
