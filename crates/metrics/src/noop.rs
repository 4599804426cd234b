//! An adapter that records nothing.

use crate::catalogue::Family;
use crate::recorder::{Label, Recorder};

/// For processes and tests without metrics.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoopMetrics;

impl Recorder for NoopMetrics {
    fn add(&self, _: Family, _: &[Label<'_>], _: u64) {}

    fn shift(&self, _: Family, _: i64) {}

    fn set(&self, _: Family, _: &[Label<'_>], _: u64) {}

    fn observe(&self, _: Family, _: &[Label<'_>], _: f64) {}
}
