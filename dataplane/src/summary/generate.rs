//! One attempt at a summary: the calls of the model.

use std::time::Duration;

use minichat_config::Model;
use minichat_config::tenant::ApiParams;
use minichat_core::context::{PlanMessage, Role};
use minichat_core::quota::PolicyModel;
use minichat_core::summary::{
    MAX_SUMMARY_BYTES, Prompt, SYSTEM_PROMPT, droppable, is_context_length_error, parse,
    token_estimate,
};
use minichat_core::turn::{TurnErrorCode, Usage};
use minichat_provider::{
    Failure, InputMessage, ProviderCall, RequestMetadata, RequestType, StartedFlag, Tools,
    TurnRequest, WholeAnswer, system_hash,
};
use minichat_store::{ChatToSummarize, MessageToSummarize};
use tokio::time::Instant;

use super::Summarizer;
use super::item::Item;
use crate::config_source::TenantRuntime;

/// Calls for a part: after a prompt that was too long, two shorter ones.
const CALLS: u32 = 3;
/// A chat that had no summary for long may have more messages than fit into as many
/// prompts as this; the oldest are left out then.
const PARTS: u64 = 4;
/// How long the calls of one attempt may take (PLAT-118), and what is left of it for
/// the commit.
const LIMIT: Duration = Duration::from_secs(50);
const COMMIT: Duration = Duration::from_secs(1);
/// The part of its model's input budget that a summary may take, at most.
const SHARE: u64 = 4;

/// A summary that can be committed.
pub(super) struct Generated {
    pub(super) text: String,
    pub(super) token_estimate: u32,
    /// Public id of the model.
    pub(super) model: String,
    /// Of all calls of the attempt that reported some.
    pub(super) usage: Option<Usage>,
}

/// Why there is no summary.
#[derive(Debug)]
pub(super) enum Unusable {
    Failed(String),
    TimedOut(String),
    /// The answer has none.
    Empty,
    /// No model or no provider to call.
    NoModel(String),
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        let text = String::from(failure.detail.clone());
        match failure.error_code() {
            TurnErrorCode::ProviderTimeout => Self::TimedOut(text),
            _ => Self::Failed(text),
        }
    }
}

impl Summarizer {
    pub(super) async fn generate(
        &self,
        tenant: &TenantRuntime,
        item: &Item,
        chat: &ChatToSummarize,
        deadline: Instant,
    ) -> Result<Generated, Unusable> {
        let settings = &tenant.config.document.thread_summary;
        let id = settings.model_id.as_ref().unwrap_or(&chat.model);
        let model = tenant.config.model(id);
        let model = model.ok_or_else(|| Unusable::NoModel(format!("no model is called {id}")))?;
        let task = Task {
            summarizer: self,
            tenant,
            item,
            model,
            expires_at: (deadline - COMMIT).min(Instant::now() + LIMIT),
        };
        let reader = tenant.config.model(&chat.model).unwrap_or(model);
        let Part {
            text,
            tokens,
            usage,
        } = task.ask(chat, longest(reader)).await?;
        Ok(Generated {
            token_estimate: token_estimate(&text, tokens),
            text,
            model: model.id.clone(),
            usage: usage.known(),
        })
    }
}

/// What the calls have made so far.
#[derive(Default)]
struct Part {
    text: String,
    /// Output tokens of the call that made the text.
    tokens: u64,
    /// Of all calls.
    usage: Usage,
}

/// The calls of one attempt.
struct Task<'a> {
    summarizer: &'a Summarizer,
    tenant: &'a TenantRuntime,
    item: &'a Item,
    model: &'a Model,
    expires_at: Instant,
}

impl Task<'_> {
    /// Messages that do not fit into one prompt are summarized part by part, the oldest
    /// first: each summary is merged with the next part (CONT-134).
    async fn ask(&self, chat: &ChatToSummarize, longest: usize) -> Result<Part, Unusable> {
        let messages: Vec<_> = chat.messages.iter().filter_map(of_conversation).collect();
        let stored = chat.summary.as_ref().map(|summary| summary.text.as_str());
        let all = Prompt {
            previous: stored,
            messages: &messages,
            content_limit: self.summarizer.settings.message_content_limit,
        };
        let room = Room::of(self.model, self.instructions());
        let mut rest = room.newest(all);
        let mut part = Part::default();
        loop {
            let previous = Some(part.text.as_str()).filter(|text| !text.is_empty());
            let prompt = Prompt {
                previous: previous.or(stored),
                messages: rest,
                ..all
            };
            let (messages, behind) = rest.split_at(room.most(prompt));
            let answer = self.shortened(Prompt { messages, ..prompt }).await?;
            let usage = answer.usage.unwrap_or_default();
            part = Part {
                text: parse(&answer.text, longest),
                tokens: usage.output_tokens,
                usage: part.usage.plus(usage),
            };
            if part.text.is_empty() {
                return Err(Unusable::Empty);
            }
            if behind.is_empty() {
                return Ok(part);
            }
            rest = behind;
        }
    }

    /// A prompt that is too long for the provider loses its oldest messages (CONT-134).
    async fn shortened(&self, mut prompt: Prompt<'_>) -> Result<WholeAnswer, Unusable> {
        for call in 1.. {
            let failure = match self.call(&prompt.text()).await {
                Ok(answer) => return Ok(answer),
                Err(Unusable::Failed(text)) if call < CALLS && is_context_length_error(&text) => {
                    text
                }
                Err(other) => return Err(other),
            };
            let Some(dropped) = droppable(prompt.messages.len()) else {
                return Err(Unusable::Failed(failure));
            };
            prompt.messages = &prompt.messages[dropped..];
        }
        Err(Unusable::Empty)
    }

    fn instructions(&self) -> &str {
        let own = &self.tenant.config.document.thread_summary.system_prompt;
        let of_process = self.summarizer.settings.system_prompt.as_str();
        let all = [own.as_deref().unwrap_or_default(), of_process];
        let given = all.into_iter().find(|text| !text.is_empty());
        given.unwrap_or(SYSTEM_PROMPT)
    }

    async fn call(&self, text: &str) -> Result<WholeAnswer, Unusable> {
        let config = &self.tenant.config;
        let provider = config.provider_of(self.model);
        let provider = provider.ok_or_else(|| Unusable::NoModel("no provider".to_owned()))?;
        let user = system_hash(self.item.tenant_id);
        let api_params = ApiParams {
            extra_body: self.model.api_params.extra_body.clone(),
            reasoning_effort: self.model.api_params.reasoning_effort.clone(),
            ..ApiParams::default()
        };
        let client_request_id = self.item.system_request_id.to_string();
        let call = ProviderCall {
            provider,
            credential: self.tenant.credential_of(provider),
            client_request_id: Some(&client_request_id),
            traceparent: None,
            request: TurnRequest {
                provider_model_id: &self.model.provider_model_id,
                instructions: Some(self.instructions()),
                messages: &[InputMessage {
                    role: minichat_provider::Role::User,
                    text,
                    image_file_ids: &[],
                }],
                is_streamed: false,
                max_output_tokens: self.model.max_output_tokens,
                tools: Tools::default(),
                max_tool_calls: None,
                api_params: &api_params,
                user: &user,
                metadata: RequestMetadata {
                    tenant_id: self.item.tenant_id,
                    user_id: None,
                    chat_id: self.item.chat_id,
                    request_type: RequestType::Summary,
                },
            },
            started: StartedFlag::default(),
        };
        let answer = self.summarizer.client.complete(&call, self.expires_at);
        Ok(answer.await?)
    }
}

/// System rows are no part of a conversation (CONT-135), and nobody has room for what
/// was not read.
fn of_conversation(message: &MessageToSummarize) -> Option<PlanMessage<'_>> {
    let role = match message.role {
        minichat_store::Role::User => Role::User,
        minichat_store::Role::Assistant => Role::Assistant,
        minichat_store::Role::System => return None,
    };
    Some(PlanMessage {
        role,
        text: message.content.as_deref()?,
    })
}

/// What a model can read beside the instructions, by the estimate of CONT-7.
struct Room<'m> {
    policy: PolicyModel<'m>,
    /// Tokens of a prompt.
    budget: u64,
}

impl<'m> Room<'m> {
    fn of(model: &'m Model, instructions: &str) -> Self {
        let policy = model.policy(model.tool_support);
        let instructions = policy.budgets.text_tokens(instructions.len() as u64);
        Self {
            budget: input_budget(&policy).saturating_sub(instructions),
            policy,
        }
    }

    fn tokens(&self, prompt: Prompt<'_>) -> u64 {
        self.policy.budgets.text_tokens(prompt.text().len() as u64)
    }

    /// The newest messages of `prompt`: as many as [`PARTS`] prompts have room for, and
    /// at least two.
    fn newest<'a>(&self, prompt: Prompt<'a>) -> &'a [PlanMessage<'a>] {
        let messages = prompt.messages;
        let fits = |dropped: usize| {
            let kept = Prompt {
                messages: &messages[dropped..],
                ..prompt
            };
            self.tokens(kept) <= PARTS * self.budget
        };
        &messages[first(0, messages.len().saturating_sub(2), fits)..]
    }

    /// How many messages of `prompt` there is room for, but at least two.
    fn most(&self, prompt: Prompt<'_>) -> usize {
        let messages = prompt.messages;
        let is_full = |count: usize| {
            let longer = Prompt {
                messages: &messages[..=count],
                ..prompt
            };
            self.tokens(longer) > self.budget
        };
        first(messages.len().min(2), messages.len(), is_full)
    }
}

/// The first number from `least` to before `most` that `holds`, else `most`. If a number
/// holds, so does each one behind it.
fn first(mut least: usize, mut most: usize, holds: impl Fn(usize) -> bool) -> usize {
    while least < most {
        let middle = usize::midpoint(least, most);
        if holds(middle) {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    least
}

fn input_budget(model: &PolicyModel<'_>) -> u64 {
    let window = model.context_window.saturating_sub(model.max_output_tokens);
    u64::from(model.max_input_tokens.min(window))
        .saturating_sub(u64::from(model.budgets.fixed_overhead_tokens))
}

/// The most bytes of a summary, so that it leaves room for messages in the prompts of
/// the model that reads it.
fn longest(reader: &Model) -> usize {
    let tokens = input_budget(&reader.policy(reader.tool_support)) / SHARE;
    let per_token = u64::from(
        reader
            .estimation_budgets
            .bytes_per_token_conservative
            .max(1),
    );
    usize::try_from(tokens.saturating_mul(per_token))
        .unwrap_or(MAX_SUMMARY_BYTES)
        .min(MAX_SUMMARY_BYTES)
}
