//! Logs on stdout (PLAT-163): one JSON object per line, or text for people.
//!
//! Never log these at any level (PLAT-165): contents, titles, prompts, tokens, secrets,
//! credentials in headers, webhook bodies. Code that logs an error text of a provider
//! sanitizes it first.

mod json;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

pub use json::JsonLines;

/// The shape of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Json,
    Text,
}

/// Settings of logs.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings<'a> {
    /// A filter such as `info` or `info,minichat_dataplane=debug`.
    pub level: &'a str,
    pub format: LogFormat,
}

/// The layer that writes lines of `format` to stdout.
pub(crate) fn layer<S>(
    format: LogFormat,
    component: &'static str,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    match format {
        LogFormat::Json => JsonLines::new(component, std::io::stdout).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().boxed(),
    }
}
