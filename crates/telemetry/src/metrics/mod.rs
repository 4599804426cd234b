//! The OpenTelemetry adapter of the metrics port.

mod capped_ids;
mod exposition;
mod instruments;
mod prefix;

use std::sync::Arc;

use minichat_metrics::catalogue::{CATALOGUE, Family, OF_JOBS, OPERATOR, Row};
use minichat_metrics::{Metrics, OperatorMetrics};

pub use exposition::Exposition;

/// Settings of metrics.
#[derive(Clone, Copy, Debug)]
pub struct MetricsSettings<'a> {
    /// Prefix of every series; empty means `mini_chat` (PLAT-51).
    pub prefix: &'a str,
    /// How many distinct providers, and models, keep their own series
    /// (PLAT-54).
    pub max_label_values: usize,
}

/// Why metrics cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics prefix `{0}` does not match ^[a-zA-Z][a-zA-Z0-9_]*$")]
    InvalidPrefix(String),
    #[error("metrics prefix `{0}` leaves no room for the names of metrics")]
    LongPrefix(String),
    #[error("the metrics exporter cannot start")]
    Exporter(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// Starts the metrics of a data plane: the port for the domain and the page
/// for the scraper. Call it once, so that there is one instrumentation scope
/// (PLAT-53).
pub fn start(
    settings: MetricsSettings<'_>,
) -> Result<(Arc<dyn Metrics>, Exposition), MetricsError> {
    let (instruments, exposition) = start_rows(CATALOGUE.iter(), settings)?;
    Ok((Arc::new(instruments), exposition))
}

/// The same for an operator, including the families that jobs record.
pub fn start_operator(
    settings: MetricsSettings<'_>,
) -> Result<(Arc<dyn OperatorMetrics>, Exposition), MetricsError> {
    let rows = OPERATOR.iter().chain(OF_JOBS.map(Family::row));
    let (instruments, exposition) = start_rows(rows, settings)?;
    Ok((Arc::new(instruments), exposition))
}

fn start_rows(
    rows: impl Iterator<Item = &'static Row>,
    settings: MetricsSettings<'_>,
) -> Result<(instruments::Instruments, Exposition), MetricsError> {
    let rows: Vec<_> = rows.collect();
    let prefix = prefix::parse(settings.prefix)?;
    let limits = capped_ids::Limits::new(settings.max_label_values);
    let (provider, exposition) = exposition::start(&rows, |row| limits.label_sets(row), prefix)?;
    let instruments = instruments::Instruments::new(&rows, &provider, prefix, limits);
    Ok((instruments, exposition))
}

#[cfg(test)]
mod tests;
