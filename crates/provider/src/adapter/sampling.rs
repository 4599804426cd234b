//! Sampling parameters, as every provider kind sends them (PLAT-108). A
//! parameter that the catalog entry does not set is not sent. Penalties and
//! `stop` are sent only to providers that support them (D9).

use minichat_config::tenant::{ApiParams, Provider};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Sampling<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
}

impl<'a> Sampling<'a> {
    pub(super) fn new(provider: &Provider, params: &'a ApiParams) -> Self {
        let penalty = |value: f64| (provider.send_penalties && value != 0.0).then_some(value);
        Self {
            temperature: params.temperature,
            top_p: params.top_p,
            frequency_penalty: penalty(params.frequency_penalty),
            presence_penalty: penalty(params.presence_penalty),
            stop: if provider.send_penalties {
                &params.stop
            } else {
                &[]
            },
        }
    }
}

/// `"reasoning":{"effort":…}` of the Responses API (CONT-31).
#[derive(Serialize)]
pub(super) struct Reasoning<'a> {
    effort: &'a str,
}

impl<'a> Reasoning<'a> {
    pub(super) fn new(params: &'a ApiParams) -> Option<Self> {
        params
            .reasoning_effort
            .as_deref()
            .map(|effort| Self { effort })
    }
}

/// The instructions, unless they are empty.
pub(super) fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
