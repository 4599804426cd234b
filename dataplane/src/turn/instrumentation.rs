//! Reports a turn to the metrics port, at the moments of TURN-65.

use minichat_config::TenantConfig;
use minichat_core::quota::{Decision, DowngradeReason, Tier};
use minichat_core::turn::{IncompleteReason, Outcome, SettlementMethod};
use minichat_metrics::{
    self as metrics, AbortTrigger, ErrorLabel, IncompleteReasonLabel, Period, TierLabel,
};
use tracing::Span;

use super::finalize::Finalized;
use super::relay::Labels;
use crate::app::App;

/// Names the step of a turn in what is logged from here on (PLAT-163).
pub(super) fn step(name: &'static str) {
    Span::current().record("step", name);
}

/// One evaluated preflight, with its final decision (QUOTA-103, D35).
pub(super) fn preflight(app: &App, config: &TenantConfig, selected: &str, decision: &Decision) {
    let (label, model, tier) = match *decision {
        Decision::Allow { model, .. } => (metrics::Decision::Allow, Some(model), None),
        Decision::Downgrade { model, .. } => (metrics::Decision::Downgrade, Some(model), None),
        Decision::Reject { tier, .. } => (metrics::Decision::Reject, None, Some(tier)),
    };
    let effective = model.map(|index| &config.models[index]);
    let name = effective.map_or(selected, |model| model.id.as_str());
    let tier = tier.or(effective.map(|model| model.tier));
    let tier = match tier {
        Some(Tier::Premium) => TierLabel::Premium,
        Some(Tier::Standard) | None => TierLabel::Standard,
    };
    app.metrics.quota_preflight(label, name, tier);
    if let Some((_, reserve)) = decision.allowed() {
        app.metrics.quota_estimated_tokens(reserve.reserve_tokens);
    }
}

/// The reserve is committed (QUOTA-55).
pub(super) fn reserved(app: &App) {
    app.metrics.quota_reserve(Period::Daily);
    app.metrics.quota_reserve(Period::Monthly);
}

/// This process won the compare-and-set. Only it records the end of the turn
/// (D1).
pub(crate) fn finalized(labels: &Labels, ended: &Finalized, abort: AbortTrigger) {
    let Labels {
        metrics,
        provider,
        model,
    } = labels;
    metrics.finalization_latency_ms(ended.latency);
    match ended.outcome {
        Outcome::Completed(reason) => {
            metrics.stream_completed(provider, model);
            if let Some(reason) = reason {
                metrics.stream_incomplete(provider, model, incomplete(reason));
            }
        }
        Outcome::Failed(code) => {
            metrics.stream_failed(provider, model, ErrorLabel::of_code(code.as_str()));
        }
        Outcome::Cancelled => metrics.stream_failed(provider, model, ErrorLabel::Cancelled),
    }
    if ended.billing == minichat_core::turn::BillingOutcome::Aborted {
        metrics.streams_aborted(abort);
    }
    if ended.method == SettlementMethod::Actual {
        settled(labels, ended);
    }
}

fn settled(labels: &Labels, ended: &Finalized) {
    let metrics = &labels.metrics;
    let settlement = &ended.settlement;
    metrics.quota_actual_tokens(
        settlement
            .input_tokens
            .saturating_add(settlement.output_tokens),
    );
    if ended.code_interpreter_calls > 0 {
        metrics.code_interpreter_calls(&labels.model, ended.code_interpreter_calls.into());
    }
    for period in [Period::Daily, Period::Monthly] {
        metrics.quota_commit(period);
        if settlement.overshoot {
            metrics.quota_overshoot(period);
        }
    }
}

const fn incomplete(reason: IncompleteReason) -> IncompleteReasonLabel {
    match reason {
        IncompleteReason::MaxTokens => IncompleteReasonLabel::MaxTokens,
        IncompleteReason::ContentFilter => IncompleteReasonLabel::ContentFilter,
        IncompleteReason::Other => IncompleteReasonLabel::Other,
    }
}

/// The reason, as the `done` event and the usage event write it.
pub(super) const fn reason_text(reason: Option<DowngradeReason>) -> Option<&'static str> {
    match reason {
        Some(reason) => Some(reason.as_str()),
        None => None,
    }
}
