//! The annotation on a Job that names the process which handled its end. A marked Job is not
//! needed any more, so the cluster deletes it sooner.

use kube::ResourceExt as _;
use uuid::Uuid;

use super::PATIENCE;
use super::record::{REPORTED, Run};
use crate::writer::Writer;

/// How many seconds a Job stays that has succeeded, and one that has failed, whose log may be
/// wanted.
const SUCCEEDED_STAYS: i32 = 300;
const FAILED_STAYS: i32 = 3600;

/// Marks Jobs.
pub(super) struct Marker {
    writer: Writer,
    /// Told apart from every other process, and from this pod's one before a crash.
    pub(super) reader: String,
}

impl Marker {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer,
            reader: Uuid::new_v4().to_string(),
        }
    }

    /// Whether another process handled the end of `run`.
    pub(super) fn is_of_another(&self, run: &Run) -> bool {
        let reader = run.job.annotations().get(REPORTED);
        reader.is_some_and(|reader| *reader != self.reader)
    }

    /// Whether this process handles the end of `run`. It sets the mark first: the process whose
    /// mark it is publishes the events, even if the answer to the write was lost. After an error
    /// the watch shows whether the mark was set, and the call is repeated.
    pub(super) async fn take(&self, run: &mut Run) -> Result<bool, String> {
        if let Some(reader) = run.job.annotations().get(REPORTED) {
            return Ok(run.has_tried && *reader == self.reader);
        }
        run.has_tried = true;
        let mark = (REPORTED, self.reader.as_str());
        let marked = self.writer.mark_job(&run.job, mark, stays(run));
        match tokio::time::timeout(PATIENCE, marked).await {
            Ok(Ok(true)) => Ok(true),
            Ok(Ok(false)) => Err("it has changed meanwhile".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// How many seconds `run` stays from its end; `None` to leave that as it is. One that stays for
/// ever does so because somebody wants it to.
fn stays(run: &Run) -> Option<i32> {
    let spec = run.job.spec.as_ref()?;
    let seconds = if run.has_failed() {
        FAILED_STAYS
    } else {
        SUCCEEDED_STAYS
    };
    spec.ttl_seconds_after_finished
        .filter(|now| *now > seconds)
        .map(|_| seconds)
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::super::record::Record;
    use super::*;

    /// K8S-44
    #[test]
    fn a_job_that_is_counted_goes_sooner_unless_it_goes_even_sooner_or_never() {
        let stays_of = |end: &str, seconds: Option<i32>| {
            let job = serde_json::from_value(json!({
                "metadata": {"name": "j", "uid": "u"},
                "spec": {"template": {}, "ttlSecondsAfterFinished": seconds},
                "status": {"conditions": [{
                    "type": end, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]},
            }));
            let mut record = Record::default();
            record.job(Event::Apply(job.unwrap()));
            stays(record.get("u").unwrap().0)
        };
        assert_eq!(stays_of("Complete", Some(7200)), Some(SUCCEEDED_STAYS));
        assert_eq!(stays_of("Failed", Some(7200)), Some(FAILED_STAYS));
        assert_eq!(stays_of("Failed", Some(600)), None);
        assert_eq!(stays_of("Complete", Some(100)), None);
        assert_eq!(stays_of("Complete", None), None);
    }
}
