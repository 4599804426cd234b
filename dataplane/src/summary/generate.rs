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

/// Calls of one attempt: after a prompt that was too long, two shorter ones.
const CALLS: u32 = 3;
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
        let answer = task.ask(chat).await?;
        let reader = tenant.config.model(&chat.model).unwrap_or(model);
        let text = parse(&answer.text, longest(reader));
        if text.is_empty() {
            return Err(Unusable::Empty);
        }
        let output_tokens = answer.usage.map_or(0, |usage| usage.output_tokens);
        Ok(Generated {
            token_estimate: token_estimate(&text, output_tokens),
            text,
            model: model.id.clone(),
            usage: answer.usage.and_then(Usage::known),
        })
    }
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
    /// A prompt that is too long for the provider loses its oldest messages (CONT-134).
    async fn ask(&self, chat: &ChatToSummarize) -> Result<WholeAnswer, Unusable> {
        let messages: Vec<_> = chat.messages.iter().filter_map(of_conversation).collect();
        let prompt = Prompt {
            previous: chat.summary.as_ref().map(|summary| summary.text.as_str()),
            messages: &messages,
            content_limit: self.summarizer.settings.message_content_limit,
        };
        let mut prompt = fitting(prompt, self.model);
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

    async fn call(&self, text: &str) -> Result<WholeAnswer, Unusable> {
        let config = &self.tenant.config;
        let provider = config.provider_of(self.model);
        let provider = provider.ok_or_else(|| Unusable::NoModel("no provider".to_owned()))?;
        let own = config.document.thread_summary.system_prompt.as_deref();
        let of_process = self.summarizer.settings.system_prompt.as_str();
        let instructions = [own.unwrap_or_default(), of_process, SYSTEM_PROMPT];
        let instructions = instructions.into_iter().find(|text| !text.is_empty());
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
                instructions,
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

/// The prompt without the oldest messages that the model has no room for, by the
/// estimate of CONT-7; two stay.
fn fitting<'a>(prompt: Prompt<'a>, model: &Model) -> Prompt<'a> {
    let policy = model.policy(model.tool_support);
    let room = input_budget(&policy);
    let without = |dropped: usize| Prompt {
        messages: &prompt.messages[dropped..],
        ..prompt
    };
    let fits = |dropped| {
        policy
            .budgets
            .text_tokens(without(dropped).text().len() as u64)
            <= room
    };
    // The fewer messages, the shorter the text.
    let (mut least, mut most) = (0, prompt.messages.len().saturating_sub(2));
    while least < most {
        let middle = usize::midpoint(least, most);
        if fits(middle) {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    without(least)
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
