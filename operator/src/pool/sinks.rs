//! What pods say in `/configz` of the sinks of a tenant.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use minichat_core::{TenantId, Timestamp};
use serde::{Deserialize, Deserializer};

use super::{PodPool, Snapshot, Waiting};
use crate::status::{SinkReport, SinkReports};

/// Longest error in bytes that a status shows.
const MAX_ERROR: usize = 300;

/// A sink as a pod writes it.
#[derive(Deserialize)]
struct Written {
    state: String,
    failing_since: Option<Timestamp>,
    last_error: Option<String>,
}

impl Written {
    fn report(self) -> Option<SinkReport> {
        match self.state.as_str() {
            "ok" => Some(SinkReport::Delivers),
            "failing" => Some(SinkReport::Fails {
                since: whole_seconds(self.failing_since?),
                error: one_line(&self.last_error.unwrap_or_default()),
            }),
            _ => None,
        }
    }
}

/// Reads `sinks` of an entry. What a pod of another release writes in another form is
/// unknown; the rest of its answer counts.
pub(super) fn reports<'de, D: Deserializer<'de>>(from: D) -> Result<SinkReports, D::Error> {
    let mut value = serde_json::Value::deserialize(from)?;
    let mut take = |sink: &str| {
        let written = value.get_mut(sink)?.take();
        serde_json::from_value::<Written>(written).ok()?.report()
    };
    Ok(SinkReports {
        usage: take("usage"),
        audit: take("audit"),
    })
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    let micros = time.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000))
}

/// The text without line breaks and other control characters.
fn one_line(text: &str) -> String {
    let plain = text.replace(char::is_control, " ");
    let words: Vec<_> = plain.split_whitespace().collect();
    let mut line = words.join(" ");
    if line.len() > MAX_ERROR {
        let end = (0..=MAX_ERROR)
            .rev()
            .find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or_default());
        line.push('…');
    }
    line
}

/// What the pods of one round say.
pub(crate) struct SinkRound {
    pub(crate) reports: BTreeMap<TenantId, SinkReports>,
    /// Whether every pod answered.
    pub(crate) is_complete: bool,
}

impl PodPool {
    /// Asks every pod about all sinks, for at most `patience`.
    pub(crate) async fn sinks(&self, patience: Duration) -> SinkRound {
        let begun = Instant::now();
        let _waiting = Waiting::new(self);
        let mut snapshots = self.snapshots.subscribe();
        let mut last = None;
        let finished = async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.begun >= begun) {
                    let is_complete = snapshot.is_complete(begun);
                    last = Some(snapshot);
                    if is_complete {
                        return;
                    }
                }
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, finished).await;
        SinkRound {
            is_complete: last.as_ref().is_some_and(|last| last.is_complete(begun)),
            reports: last.map(|last| last.sinks(begun)).unwrap_or_default(),
        }
    }
}

impl Snapshot {
    /// Whether every pod was asked after `since`, and answered.
    pub(super) fn is_complete(&self, since: Instant) -> bool {
        let mut answers = self.pods.iter();
        answers.all(|answer| answer.asked >= since && answer.entries.is_some())
    }

    fn sinks(&self, since: Instant) -> BTreeMap<TenantId, SinkReports> {
        let mut all = BTreeMap::<_, SinkReports>::new();
        for answer in self.pods.iter().filter(|answer| answer.asked >= since) {
            for (tenant, entry) in answer.entries.iter().flat_map(|entries| entries.iter()) {
                if entry.sinks != SinkReports::default() {
                    all.entry(*tenant).or_default().add(&entry.sinks);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(sinks: Value) -> SinkReports {
        reports(sinks).unwrap()
    }

    fn fails(since: &str, error: &str) -> SinkReport {
        SinkReport::Fails {
            since: since.parse().unwrap(),
            error: error.to_owned(),
        }
    }

    #[test]
    fn what_pods_write_is_read_as_far_as_it_is_known() {
        let written = json!({
            "usage": {"state": "ok"},
            "audit": {"state": "failing", "failing_since": "2026-01-01T00:00:00.9Z", "last_error": "503\n\u{7}x"},
        });
        let found = read(written);
        assert_eq!(found.usage, Some(SinkReport::Delivers));
        assert_eq!(found.audit, Some(fails("2026-01-01T00:00:00Z", "503 x")));
        for other in [
            json!(null),
            json!("ok"),
            json!({"usage": "ok"}),
            json!({"usage": {"state": 1}, "audit": {"state": "paused"}}),
            json!({"usage": {"state": "failing"}}),
            json!({"usage": {"state": "failing", "failing_since": "yesterday"}}),
        ] {
            assert_eq!(read(other.clone()), SinkReports::default(), "{other}");
        }
    }

    #[test]
    fn an_error_is_bounded() {
        let long = "ä".repeat(400);
        let shown = one_line(&long);
        assert!(shown.len() <= MAX_ERROR + '…'.len_utf8(), "{shown}");
        assert!(shown.ends_with("ä…"));
    }
}
