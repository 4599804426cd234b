//! Export of spans to an OTLP collector over HTTP.

use std::cell::Cell;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SdkTracerProvider, SpanProcessor,
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::collector::Collector;
use super::{TraceContext, TraceSettings, Tracer};

thread_local! {
    /// The ids of the span that is being started on this thread.
    static ADOPTED: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// The layer that exports spans, and the tracer that it exports them for. Must be called
/// inside a tokio runtime, which sends the spans.
pub(crate) fn layer<S>(
    settings: TraceSettings<'_>,
    component: &'static str,
) -> Result<(impl Layer<S> + Send + Sync, Tracer), ExporterBuildError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let base = settings.otlp_endpoint.trim_end_matches('/');
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new())
        .with_endpoint(format!("{base}/v1/traces"))
        .build()?;
    let processor = opentelemetry_sdk::trace::BatchSpanProcessor::builder(exporter).build();
    Ok(layer_over(processor, settings.sample_ratio, component))
}

pub(super) fn layer_over<S>(
    processor: impl SpanProcessor + 'static,
    sample_ratio: f64,
    component: &'static str,
) -> (impl Layer<S> + Send + Sync, Tracer)
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let resource = Resource::builder_empty()
        .with_service_name("minichat")
        .with_attribute(KeyValue::new("component", component));
    let sampler = Sampler::TraceIdRatioBased(sample_ratio);
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_id_generator(AdoptedIds::default())
        .with_sampler(Sampler::ParentBased(Box::new(sampler.clone())))
        .with_resource(resource.build())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("minichat"))
        .with_location(false)
        .with_threads(false);
    let tracer = Tracer {
        sampler,
        provider: Some(provider),
    };
    (layer, tracer)
}

pub(super) fn adopt(span: &Span, context: TraceContext) {
    // Fails without export, or for a span that already has ids.
    if span.set_parent(parent_of(context)).is_err() {
        return;
    }
    ADOPTED.set(Some(context));
    // Starts the span. The SDK asks for its ids immediately, on this thread.
    drop(span.context());
    ADOPTED.set(None);
}

fn parent_of(context: TraceContext) -> Context {
    let Some(parent) = context.parent_span_id() else {
        return Context::new();
    };
    let flags = TraceFlags::default().with_sampled(context.sampled());
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from(context.trace_id_bits()),
        SpanId::from(parent),
        flags,
        true,
        TraceState::default(),
    ))
}

/// Random ids, except for a span that adopts a context, which gets that context's ids.
#[derive(Debug, Default)]
struct AdoptedIds(RandomIdGenerator);

impl IdGenerator for AdoptedIds {
    fn new_trace_id(&self) -> TraceId {
        match ADOPTED.get() {
            Some(context) => TraceId::from(context.trace_id_bits()),
            None => self.0.new_trace_id(),
        }
    }

    fn new_span_id(&self) -> SpanId {
        match ADOPTED.get() {
            Some(context) => SpanId::from(context.span_id_bits()),
            None => self.0.new_span_id(),
        }
    }
}
