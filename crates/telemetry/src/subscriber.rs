//! Installs the process's handling of log events and spans.

use opentelemetry_otlp::ExporterBuildError;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::logs::{self, LogSettings};
use crate::traces::{self, TraceSettings, Tracer};

/// Why logs and traces cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("logging level is not a filter such as `info`")]
    Level(#[from] ParseError),
    #[error("spans cannot be exported to `{0}`: only http:// is supported")]
    EndpointScheme(String),
    #[error("the exporter of spans cannot start")]
    Export(#[from] ExporterBuildError),
    #[error("logs are already started")]
    Twice(#[from] TryInitError),
}

/// Starts logs on stdout and, with `export`, the export of spans. Call it
/// once per process, inside a tokio runtime. `component` says which part of
/// minichat this process is, such as `serve` or `operator`.
pub fn start(
    component: &'static str,
    logs: LogSettings<'_>,
    export: Option<TraceSettings<'_>>,
) -> Result<Tracer, StartError> {
    let registry = tracing_subscriber::registry()
        .with(filter(logs.level)?)
        .with(logs::layer(logs.format, component));
    let Some(settings) = export else {
        registry.try_init()?;
        return Ok(Tracer::without_export());
    };
    if !settings.otlp_endpoint.starts_with("http://") {
        return Err(StartError::EndpointScheme(
            settings.otlp_endpoint.to_owned(),
        ));
    }
    let (layer, tracer) = traces::layer(settings, component)?;
    registry.with(layer).try_init()?;
    Ok(tracer)
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    // At its lowest level h2 writes the headers of every request, credentials
    // included (PLAT-165).
    let filter = filter.add_directive("h2=info".parse()?);
    // The spans of this crate would add their fields to every line of the operator, which
    // logs its own fields instead.
    Ok(filter.add_directive("kube_runtime::controller=warn".parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_names_or_filters() {
        for level in ["info", "INFO", "info,minichat_dataplane=debug", "off"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["chatty=loud", "minichat=info=debug"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
