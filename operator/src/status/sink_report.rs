//! What is known of the sinks of a tenant.

use minichat_core::Timestamp;

/// What is known of both sinks. `None` of a sink: nobody says anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SinkReports {
    pub(crate) usage: Option<SinkReport>,
    pub(crate) audit: Option<SinkReport>,
}

/// How a sink fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SinkReport {
    Delivers,
    Fails {
        /// In whole seconds, as a status has it.
        since: Timestamp,
        /// In one line, at most 300 bytes.
        error: String,
    },
}

impl SinkReports {
    /// Of several pods: a sink fails if it does for one of them, since the first time.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, one) in [
            (&mut self.usage, &other.usage),
            (&mut self.audit, &other.audit),
        ] {
            let is_worse = match (&sum, one) {
                (None, Some(_)) | (Some(SinkReport::Delivers), Some(SinkReport::Fails { .. })) => {
                    true
                }
                (
                    Some(SinkReport::Fails { since: first, .. }),
                    Some(SinkReport::Fails { since, .. }),
                ) => since < first,
                _ => false,
            };
            if is_worse {
                sum.clone_from(one);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(since: &str, error: &str) -> SinkReport {
        SinkReport::Fails {
            since: since.parse().unwrap(),
            error: error.to_owned(),
        }
    }

    #[test]
    fn a_sink_fails_since_the_first_pod_says_so() {
        let failing = |since: &str, error: &str| SinkReports {
            usage: Some(fails(since, error)),
            audit: None,
        };
        let delivers = SinkReports {
            usage: Some(SinkReport::Delivers),
            audit: Some(SinkReport::Delivers),
        };
        let (early, late) = (
            failing("2026-01-01T00:00:00Z", "a"),
            failing("2026-01-01T00:00:09Z", "b"),
        );
        for order in [[&late, &delivers, &early], [&early, &late, &delivers]] {
            let mut sum = SinkReports::default();
            for one in order {
                sum.add(one);
            }
            assert_eq!(sum.usage, early.usage);
            assert_eq!(sum.audit, Some(SinkReport::Delivers));
        }
    }
}
