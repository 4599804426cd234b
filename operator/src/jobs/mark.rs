//! The annotation on a Job that names the process which counts its report.

use kube::ResourceExt as _;
use uuid::Uuid;

use super::PATIENCE;
use super::record::Run;
use crate::writer::Writer;

/// Annotation of a Job whose report is counted: by which process.
pub(super) const REPORTED: &str = "minichat.dev/reported";

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

    /// Whether this process handles the end of `run`. It sets the mark first: the process whose
    /// mark it is counts the report, even if the answer to the write was lost. After an error
    /// the watch shows whether the mark was set, and the call is repeated.
    pub(super) async fn take(&self, run: &mut Run) -> Result<bool, String> {
        if let Some(reader) = run.job.annotations().get(REPORTED) {
            return Ok(run.has_tried && *reader == self.reader);
        }
        run.has_tried = true;
        let marked = self.writer.mark_job(&run.job, REPORTED, &self.reader);
        match tokio::time::timeout(PATIENCE, marked).await {
            Ok(Ok(true)) => Ok(true),
            Ok(Ok(false)) => Err("it has changed meanwhile".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}
