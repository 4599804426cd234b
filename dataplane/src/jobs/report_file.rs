//! The file in which a job leaves its counts (K8S-44). In a container it is the
//! termination message, which survives however the process ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;
use minichat_metrics::{JobMetrics, MAX_REPORT_BYTES};

/// The default path of the termination message. Outside a container this file
/// does not exist, and no report is written.
const DEFAULT: &str = "/dev/termination-log";

/// The open file and the text written to it.
pub(super) struct ReportFile {
    job: &'static str,
    file: Option<File>,
    last: String,
}

impl ReportFile {
    /// Opens the file at `path`, or the one that Kubernetes provides.
    pub(super) fn open(job: &'static str, path: Option<&Path>) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => Some(create(path).with_context(|| {
                format!("job.report_file: {} cannot be written", path.display())
            })?),
            None if Path::new(DEFAULT).exists() => match create(Path::new(DEFAULT)) {
                Ok(file) => Some(file),
                Err(error) => {
                    tracing::warn!(%error, path = DEFAULT, "the report of this job has no file");
                    None
                }
            },
            None => None,
        };
        Ok(Self {
            job,
            file,
            last: String::new(),
        })
    }

    /// Replaces the report in one write, never by a shorter text, so that a
    /// process that is killed at any moment leaves a complete report. A failure
    /// is only logged, because the work is more important than the counts.
    pub(super) fn write(&mut self, metrics: &JobMetrics) {
        let Some(file) = &self.file else { return };
        let mut text = metrics.report(self.job).to_json();
        if text.len() < self.last.len() {
            text.extend(std::iter::repeat_n(' ', self.last.len() - text.len()));
        }
        debug_assert!(text.len() <= MAX_REPORT_BYTES);
        if text == self.last {
            return;
        }
        if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
            tracing::error!(%error, "the report of this job could not be written");
        }
        self.last = text;
    }
}

/// The kubelet reads the file that it mounted, so the file is truncated, not
/// replaced.
fn create(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
}
