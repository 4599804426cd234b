//! The metrics port of the operator (K8S-15).

use std::time::Duration;

use crate::catalogue::Family;
use crate::job_report::JobReport;
use crate::label::{ReconcileErrorLabel, ReconcileKind, ReconcileLoop};
use crate::recorder::{Label::Closed, Recorder};

/// One method per fact that the operator reports. Calls never fail and never block,
/// and no label contains the name of an object.
///
/// Adapters implement [`Recorder`] and get this trait.
pub trait OperatorMetrics: Send + Sync {
    /// A reconcile ended after `elapsed`, with or without an error.
    fn reconcile(&self, kind: ReconcileKind, of: ReconcileLoop, elapsed: Duration);
    /// A reconcile failed; called in addition to `reconcile`.
    fn reconcile_error(&self, kind: ReconcileKind, reason: ReconcileErrorLabel);
    /// Every ready pod runs the revision of a change that was noticed `elapsed`
    /// ago.
    fn config_propagation_seconds(&self, elapsed: Duration);
    /// Sets the number of tenants whose configuration is delivered to the pool.
    fn rendered_tenants(&self, tenants: usize);
    /// A pod refused a revision; once per revision.
    fn config_rejected(&self);
    /// Whether this process leads.
    fn leader(&self, leads: bool);
    /// A job has finished and written `report` (K8S-44); called once per job.
    fn job_reported(&self, report: &JobReport);
}

impl<R: Recorder> OperatorMetrics for R {
    fn reconcile(&self, kind: ReconcileKind, of: ReconcileLoop, elapsed: Duration) {
        let labels = [Closed(kind.as_str()), Closed(of.as_str())];
        self.add(Family::Reconcile, &labels, 1);
        let seconds = elapsed.as_secs_f64();
        self.observe(Family::ReconcileDurationSeconds, &labels, seconds);
    }

    fn reconcile_error(&self, kind: ReconcileKind, reason: ReconcileErrorLabel) {
        let labels = [Closed(kind.as_str()), Closed(reason.as_str())];
        self.add(Family::ReconcileError, &labels, 1);
    }

    fn config_propagation_seconds(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        self.observe(Family::ConfigPropagationSeconds, &[], seconds);
    }

    fn rendered_tenants(&self, tenants: usize) {
        let tenants = u64::try_from(tenants).unwrap_or(u64::MAX);
        self.set(Family::RenderedTenants, &[], tenants);
    }

    fn config_rejected(&self) {
        self.add(Family::ConfigRejected, &[], 1);
    }

    fn leader(&self, leads: bool) {
        self.set(Family::Leader, &[], u64::from(leads));
    }

    fn job_reported(&self, report: &JobReport) {
        report.replay(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordingMetrics;
    use crate::catalogue::OPERATOR;

    /// K8S-15: the double itself refuses labels outside the sets.
    #[test]
    fn every_fact_of_the_operator_is_recorded_in_its_own_family() {
        let metrics = RecordingMetrics::default();
        let time = Duration::from_millis(250);
        metrics.reconcile(ReconcileKind::ChatTenant, ReconcileLoop::Render, time);
        metrics.reconcile_error(ReconcileKind::ChatQuota, ReconcileErrorLabel::Forbidden);
        metrics.config_propagation_seconds(time);
        metrics.rendered_tenants(3);
        metrics.config_rejected();
        metrics.leader(true);
        let job = crate::JobMetrics::default();
        crate::Metrics::orphan_finalized(&job);
        metrics.job_reported(&job.report("watchdog"));
        assert_eq!(metrics.counter("orphan_finalized", &["stale_progress"]), 1);
        let mut families: Vec<_> = OPERATOR.iter().map(|row| row.name).collect();
        families.push("orphan_finalized");
        families.sort_unstable();
        assert_eq!(metrics.recorded_families(), families);
        let labels = ["chat_quota", "forbidden"];
        assert_eq!(metrics.counter("operator_reconcile_error", &labels), 1);
        assert_eq!(metrics.gauge("operator_leader", &[]), 1);
        assert_eq!(
            metrics.observations("operator_config_propagation_seconds", &[]),
            [0.25]
        );
    }

    /// K8S-15
    #[test]
    fn no_label_of_the_operator_is_open() {
        assert!(OPERATOR.iter().all(|row| row.label_sets().is_some()));
    }
}
