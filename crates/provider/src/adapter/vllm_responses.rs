//! The Responses API as vLLM serves it (PLAT-110). It is that of
//! [`openai_responses`](super::openai_responses) with fewer fields and with
//! `<think>` tags.

use minichat_config::tenant::Provider;

use super::openai_responses::{Answer, RequestJson};
use crate::request::TurnRequest;

pub(super) fn request<'a>(provider: &Provider, request: &TurnRequest<'a>) -> RequestJson<'a> {
    RequestJson::new(provider, request).for_vllm()
}

pub(super) fn answer() -> Answer {
    Answer::with_think_tags()
}
