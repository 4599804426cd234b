use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry::trace::SpanId;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor, SpanData};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The spans that are exported while `work` runs.
fn exported(sample_ratio: f64, work: impl FnOnce(&Tracer)) -> Vec<SpanData> {
    let exporter = InMemorySpanExporter::default();
    let processor = SimpleSpanProcessor::new(exporter.clone());
    let (layer, tracer) = export::layer_over(processor, sample_ratio, "serve");
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || work(&tracer));
    exporter.get_finished_spans().unwrap()
}

fn by_name<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    spans.iter().find(|span| span.name == name).unwrap()
}

/// PLAT-166: ids in logs, in `traceparent` and in exported spans are the same.
#[test]
fn exported_spans_have_the_ids_of_their_context() {
    let mut contexts = None;
    let spans = exported(1., |tracer| {
        let request = tracer.begin(Some(CALLER));
        let call = request.child();
        contexts = Some((request, call));
        http_span(request, "r-1").in_scope(|| {
            let preflight = tracing::info_span!("preflight");
            preflight.in_scope(|| {});
            let provider = tracing::info_span!("provider_stream");
            adopt(&provider, call);
            provider.in_scope(|| {});
        });
    });
    let (request, call) = contexts.unwrap();
    let ids = |span: &SpanData| {
        let context = &span.span_context;
        (
            context.trace_id().to_string(),
            context.span_id().to_string(),
        )
    };
    let http = by_name(&spans, "http");
    assert_eq!(ids(http), (request.trace_id(), request.span_id()));
    assert_eq!(http.parent_span_id.to_string(), "00f067aa0ba902b7");
    let provider = by_name(&spans, "provider_stream");
    assert_eq!(ids(provider), (request.trace_id(), call.span_id()));
    assert_eq!(provider.parent_span_id.to_string(), request.span_id());
    let preflight = by_name(&spans, "preflight");
    assert_eq!(ids(preflight).0, request.trace_id());
    assert_eq!(preflight.parent_span_id.to_string(), request.span_id());
}

#[test]
fn the_first_span_of_a_trace_has_no_parent() {
    let mut context = None;
    let spans = exported(1., |tracer| {
        let request = tracer.begin(Some("malformed"));
        context = Some(request);
        http_span(request, "r-1").in_scope(|| {});
    });
    let context = context.unwrap();
    assert!(context.sampled());
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
    assert_eq!(
        spans[0].span_context.trace_id().to_string(),
        context.trace_id()
    );
}

#[test]
fn what_traceparent_says_about_keeping_is_what_is_exported() {
    let mut kept = 0;
    let spans = exported(0.5, |tracer| {
        for _ in 0..200 {
            let request = tracer.begin(None);
            kept += usize::from(request.sampled());
            http_span(request, "r").in_scope(|| {});
        }
    });
    assert_eq!(spans.len(), kept);
    assert!((1..200).contains(&kept), "{kept}");
}

#[test]
fn the_beginner_of_a_trace_decides_whether_it_is_kept() {
    let unwanted = CALLER.replace("-01", "-00");
    let spans = exported(1., |tracer| {
        http_span(tracer.begin(Some(&unwanted)), "r").in_scope(|| {});
    });
    assert!(spans.is_empty());
    let spans = exported(0., |tracer| {
        http_span(tracer.begin(Some(CALLER)), "r").in_scope(|| {});
    });
    assert_eq!(spans.len(), 1);
}

#[test]
fn without_export_traces_are_identified_and_passed_on() {
    let tracer = Tracer::without_export();
    let continued = tracer.begin(Some(CALLER));
    assert_eq!(continued.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(continued.sampled());
    let root = tracer.begin(None);
    assert!(!root.sampled());
    assert_ne!(root.trace_id(), tracer.begin(None).trace_id());
    let _span = http_span(root, "r");
}

#[tokio::test]
async fn spans_reach_the_collector_before_shutdown_ends() {
    let (sent, mut batches) = mpsc::unbounded_channel::<Bytes>();
    let receive = move |batch: Bytes| async move { sent.send(batch).unwrap() };
    let collector = Router::new().route("/v1/traces", post(receive));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(crate::serve(
        listener,
        collector,
        crate::Lifecycle::default(),
    ));

    let settings = TraceSettings {
        otlp_endpoint: &endpoint,
        sample_ratio: 1.,
    };
    let (layer, tracer) = layer(settings, "serve").unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    let context = tracer.begin(None);
    tracing::subscriber::with_default(subscriber, || drop(http_span(context, "r-77")));
    tracer.shutdown().await;

    let batch = batches.try_recv().unwrap();
    let contains = |part: &[u8]| batch.windows(part.len()).any(|window| window == part);
    assert!(contains(b"http_request_id") && contains(b"r-77"));
    let trace_id = u128::from_str_radix(&context.trace_id(), 16).unwrap();
    assert!(contains(&trace_id.to_be_bytes()));
}
