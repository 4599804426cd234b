//! JSON lines: `timestamp`, `level`, `target`, `message`, `component`, then
//! the fields of the spans around the event and of the event itself, all at
//! the top level. If a name repeats, the innermost value is used.

use std::fmt;
use std::io::Write as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Writes each event as one line to `writer`.
pub struct JsonLines<W> {
    component: &'static str,
    writer: W,
}

impl<W> JsonLines<W> {
    pub const fn new(component: &'static str, writer: W) -> Self {
        Self { component, writer }
    }
}

/// The fields of a span, kept in its extensions.
struct SpanFields(Fields);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            // From the innermost span outwards: existing values are kept.
            if let Some(SpanFields(outer)) = span.extensions().get() {
                fields.add_absent(outer);
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        own.add_absent(&fields);
        let line = self.line(event, own);
        // If stdout is closed, the error cannot be reported anywhere.
        let _ = self
            .writer
            .make_writer_for(event.metadata())
            .write_all(&line);
    }
}

impl<W> JsonLines<W> {
    fn line(&self, event: &Event<'_>, mut fields: Fields) -> Vec<u8> {
        let metadata = event.metadata();
        let message = fields.0.remove("message").unwrap_or(Value::Null);
        let head = [
            ("timestamp", Value::from(now())),
            ("level", metadata.level().as_str().into()),
            ("target", metadata.target().into()),
            ("message", message),
            ("component", self.component.into()),
        ];
        let mut line = Vec::with_capacity(256);
        for (name, value) in &head {
            push_field(&mut line, name, value);
        }
        for (name, value) in &fields.0 {
            if head.iter().all(|(taken, _)| taken != name) {
                push_field(&mut line, name, value);
            }
        }
        line.extend_from_slice(b"}\n");
        line
    }
}

fn now() -> String {
    let mut text = String::with_capacity(27);
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn push_field(line: &mut Vec<u8>, name: &str, value: &Value) {
    line.push(if line.is_empty() { b'{' } else { b',' });
    // Neither a string nor a JSON value can fail to be written to memory.
    let _ = serde_json::to_writer(&mut *line, name);
    line.push(b':');
    let _ = serde_json::to_writer(&mut *line, value);
}

/// Fields that control the export of spans; they are not logged.
const EXPORT_FIELDS: &str = "otel.";

/// Field values by name. A field with the value `None` is omitted.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn add_absent(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if !field.name().starts_with(EXPORT_FIELDS) {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// An error with its causes, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
