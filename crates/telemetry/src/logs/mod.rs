//! Logs on stdout (PLAT-163): one JSON object per line, or text for people.
//!
//! Never a field at any level (PLAT-165): contents, titles, prompts, tokens,
//! secrets, credentials in headers, webhook bodies. Provider error texts are
//! sanitized by whoever logs them.

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

/// What the configuration says about logs.
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
