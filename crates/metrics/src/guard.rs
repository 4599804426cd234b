//! Guards for gauges: creating a guard increments the gauge, dropping it decrements the
//! gauge on every exit path.

use std::sync::Arc;

use crate::port::Metrics;

/// Counts as one active stream while it lives.
#[must_use = "the stream counts as active only while the guard lives"]
pub struct ActiveStreamGuard(Arc<dyn Metrics>);

impl ActiveStreamGuard {
    pub fn new(metrics: Arc<dyn Metrics>) -> Self {
        metrics.active_streams_inc();
        Self(metrics)
    }
}

impl Drop for ActiveStreamGuard {
    fn drop(&mut self) {
        self.0.active_streams_dec();
    }
}

/// Counts as one pending attachment while it lives.
#[must_use = "the attachment counts as pending only while the guard lives"]
pub struct PendingAttachmentGuard(Arc<dyn Metrics>);

impl PendingAttachmentGuard {
    pub fn new(metrics: Arc<dyn Metrics>) -> Self {
        metrics.attachments_pending_inc();
        Self(metrics)
    }
}

impl Drop for PendingAttachmentGuard {
    fn drop(&mut self) {
        self.0.attachments_pending_dec();
    }
}
