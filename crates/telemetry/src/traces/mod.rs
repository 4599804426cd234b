//! Traces (PLAT-166): W3C trace context always, export of spans if configured.

mod collector;
mod context;
mod export;

use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SdkTracerProvider, ShouldSample};
use tracing::Span;
use tracing::field::Empty;

pub use context::{TRACEPARENT, TraceContext};
pub(crate) use export::layer;

/// Settings of the export of spans.
#[derive(Clone, Copy, Debug)]
pub struct TraceSettings<'a> {
    /// Base URL of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`.
    pub otlp_endpoint: &'a str,
    /// The share of traces started by this process that is kept, 0 to 1. For other
    /// traces, the process that started them has decided.
    pub sample_ratio: f64,
}

/// Begins and continues traces.
#[derive(Clone, Debug)]
pub struct Tracer {
    sampler: Sampler,
    provider: Option<SdkTracerProvider>,
}

impl Tracer {
    /// A tracer without export: it creates ids and keeps no traces.
    pub const fn without_export() -> Self {
        Self {
            sampler: Sampler::AlwaysOff,
            provider: None,
        }
    }

    /// The context of a new span: below the caller's span, if the request
    /// names one in a well-formed `traceparent`, else the first of a new trace.
    pub fn begin(&self, traceparent: Option<&str>) -> TraceContext {
        traceparent
            .and_then(TraceContext::continued)
            .unwrap_or_else(|| TraceContext::root(|trace_id| self.keeps(trace_id)))
    }

    fn keeps(&self, trace_id: u128) -> bool {
        let kind = SpanKind::Internal;
        let id = TraceId::from(trace_id);
        let result = self.sampler.should_sample(None, id, "", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// Sends the spans that wait to be exported. Call it last.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // It blocks until the collector answers.
        let result = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = result {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

/// The span of an HTTP request that this process serves. Every log line
/// inside has its ids; `tenant_id`, `user_id` and `requester_type` are
/// recorded when the caller is known, and `step` as the work goes on (PLAT-163).
pub fn http_span(context: TraceContext, http_request_id: &str) -> Span {
    // At level `error`, so that every log level includes the ids.
    let span = tracing::error_span!(
        "http",
        otel.kind = "server",
        trace_id = context.trace_id(),
        span_id = context.span_id(),
        http_request_id,
        tenant_id = Empty,
        user_id = Empty,
        requester_type = Empty,
        step = Empty,
    );
    adopt(&span, context);
    span
}

/// Makes `span` the span of `context` in what is exported, so that its ids
/// are those in logs and in the `traceparent` sent on. Must be called before
/// the span is entered; does nothing without export.
pub fn adopt(span: &Span, context: TraceContext) {
    export::adopt(span, context);
}

#[cfg(test)]
mod tests;
