//! The catalogue of all metric families: the one place that defines their names,
//! kinds, labels, buckets and help texts. [`CATALOGUE`] is the data plane's
//! (PLAT-58), [`OPERATOR`] the operator's (K8S-15).

use crate::label::{
    AbortTrigger, AuditResult, BacklogState, CleanupResource, CleanupRetryReason, Decision,
    ErrorLabel, IncompleteReasonLabel, MutationOp, MutationResult, OutboxHandled, OutboxKindLabel,
    OutboxResult, Period, ReconcileErrorLabel, ReconcileKind, ReconcileLoop, Stage,
    SummaryExecution, SummaryTrigger, TierLabel, Trigger, UploadKind, UploadResult,
};

pub use crate::markdown::markdown;

/// The prefix of all series when the configuration names none (PLAT-51).
pub const DEFAULT_PREFIX: &str = "mini_chat";

/// The value for everything outside a label's set (PLAT-54).
pub const OTHER: &str = "other";

/// The Prometheus type of a family.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Counter,
    /// A gauge that changes by one, only through guards.
    UpDown,
    /// A gauge that is set to absolute values.
    Gauge,
    Histogram(Buckets),
}

/// The bucket bounds of a histogram, under the name the documentation uses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Buckets {
    pub name: &'static str,
    pub unit: &'static str,
    /// Upper bounds, ascending, without `+Inf`.
    pub bounds: &'static [f64],
}

/// A label key with its set of values. `None` for ids from the configuration, whose
/// number the adapter limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelKey {
    pub name: &'static str,
    pub values: Option<&'static [&'static str]>,
}

/// One family: a row of the catalogue.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    pub family: Family,
    /// Without prefix and without the `_total` that the exporter appends
    /// (PLAT-52).
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [LabelKey],
    help: &'static str,
}

impl Row {
    /// The text of the `# HELP` line.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// The family's name as Prometheus sees it.
    pub fn series(&self, prefix: &str) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::UpDown | Kind::Gauge | Kind::Histogram(_) => "",
        };
        format!("{prefix}_{}{suffix}", self.name)
    }

    /// Every combination of label values, in the order of the labels; `None` if a label
    /// has no fixed set.
    pub fn label_sets(&self) -> Option<Vec<Vec<&'static str>>> {
        let mut sets = vec![Vec::new()];
        for label in self.labels {
            let values = label.values?;
            sets = sets
                .iter()
                .flat_map(|set| {
                    values.iter().map(move |value| {
                        let mut longer = set.clone();
                        longer.push(*value);
                        longer
                    })
                })
                .collect();
        }
        Some(sets)
    }
}

/// The families that jobs record. The operator has these families too, and adds the
/// contents of reports of finished jobs (K8S-44).
///
/// The backlog of the clean-up is not among them: processes that serve read it from the
/// database, and a value that a job has left would grow old.
pub const OF_JOBS: [Family; 11] = [
    Family::StreamFailed,
    Family::FinalizationLatencyMs,
    Family::StreamsAborted,
    Family::OrphanDetected,
    Family::OrphanFinalized,
    Family::OrphanScanDurationSeconds,
    Family::CleanupCompleted,
    Family::CleanupFailed,
    Family::CleanupRetry,
    Family::CleanupVsWithFailedAttachments,
    Family::OutboxHandler,
];

impl Family {
    /// Number of families in all tables.
    pub const COUNT: usize = CATALOGUE.len() + OPERATOR.len();

    pub fn row(self) -> &'static Row {
        let index = self as usize;
        match index.checked_sub(CATALOGUE.len()) {
            Some(index) => &OPERATOR[index],
            None => &CATALOGUE[index],
        }
    }
}

/// Declares [`Family`] and its tables from one list, so that every family has a row.
/// The doc comment of a family is its help text.
macro_rules! catalogue {
    ($(
        $(#[$doc:meta])* $table:ident: $count:literal {
            $($(#[doc = $help:literal])+ $family:ident: $name:literal $kind:expr, [$($label:expr),*];)+
        }
    )+) => {
        /// The identity of a metric family.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Family { $($($(#[doc = $help])+ $family),+),+ }

        $(
            $(#[$doc])*
            pub static $table: [Row; $count] = [$(Row {
                family: Family::$family,
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                help: concat!($($help),+),
            }),+];
        )+
    };
}

const FAST: Kind = Kind::Histogram(Buckets {
    name: "FAST",
    unit: "milliseconds",
    bounds: &[
        1., 2., 5., 10., 20., 35., 50., 75., 100., 150., 200., 300., 500., 1000., 2500., 5000.,
    ],
});
const STREAM: Kind = Kind::Histogram(Buckets {
    name: "STREAM",
    unit: "milliseconds",
    bounds: &[
        50., 100., 200., 300., 500., 750., 1000., 1500., 2500., 5000., 10_000., 20_000., 30_000.,
        60_000., 120_000., 300_000., 600_000.,
    ],
});
const TOKENS: Kind = Kind::Histogram(Buckets {
    name: "TOKENS",
    unit: "tokens",
    bounds: &[
        64., 128., 256., 512., 1024., 2048., 4096., 8192., 16_384., 32_768., 65_536., 131_072.,
        262_144., 524_288., 1_048_576.,
    ],
});
const BYTES: Kind = Kind::Histogram(Buckets {
    name: "BYTES",
    unit: "bytes",
    bounds: &[
        1024.,
        8192.,
        65_536.,
        262_144.,
        1_048_576.,
        5_242_880.,
        10_485_760.,
        16_777_216.,
        26_214_400.,
        52_428_800.,
    ],
});
const COUNT: Kind = Kind::Histogram(Buckets {
    name: "COUNT",
    unit: "images",
    bounds: &[1., 2., 3., 4., 8., 16.],
});
const SECS: Kind = Kind::Histogram(Buckets {
    name: "SECS",
    unit: "seconds",
    bounds: &[
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.,
    ],
});

const fn open(name: &'static str) -> LabelKey {
    LabelKey { name, values: None }
}

const fn closed(name: &'static str, values: &'static [&'static str]) -> LabelKey {
    LabelKey {
        name,
        values: Some(values),
    }
}

const PROVIDER: LabelKey = open("provider");
const MODEL: LabelKey = open("model");
const ERROR_CODE: LabelKey = closed("error_code", ErrorLabel::VALUES);
const STAGE: LabelKey = closed("stage", Stage::VALUES);
const OP: LabelKey = closed("op", MutationOp::VALUES);
const MUTATION_RESULT: LabelKey = closed("result", MutationResult::VALUES);
const AUDIT_RESULT: LabelKey = closed("result", AuditResult::VALUES);
const DECISION: LabelKey = closed("decision", Decision::VALUES);
const TIER: LabelKey = closed("tier", TierLabel::VALUES);
const PERIOD: LabelKey = closed("period", Period::VALUES);
const INCOMPLETE_REASON: LabelKey = closed("reason", IncompleteReasonLabel::VALUES);
const TRIGGER: LabelKey = closed("trigger", Trigger::VALUES);
const ABORT_TRIGGER: LabelKey = closed("trigger", AbortTrigger::VALUES);
const UPLOAD_KIND: LabelKey = closed("kind", UploadKind::VALUES);
const UPLOAD_RESULT: LabelKey = closed("result", UploadResult::VALUES);
const RESOURCE: LabelKey = closed("resource_type", CleanupResource::VALUES);
const FILE_RESOURCE: LabelKey = closed("resource_type", &[CleanupResource::File.as_str()]);
const RETRY_REASON: LabelKey = closed("reason", CleanupRetryReason::VALUES);
const STATE: LabelKey = closed("state", BacklogState::VALUES);
const ORPHAN_REASON: LabelKey = closed("reason", &[STALE_PROGRESS]);
const SUMMARY_TRIGGER: LabelKey = closed("result", SummaryTrigger::VALUES);
const SUMMARY_EXECUTION: LabelKey = closed("result", SummaryExecution::VALUES);
const OUTBOX_KIND: LabelKey = closed("kind", OutboxKindLabel::VALUES);
const OUTBOX_RESULT: LabelKey = closed("result", OutboxResult::VALUES);
const OUTBOX_HANDLED: LabelKey = closed("result", OutboxHandled::VALUES);
const RECONCILE_KIND: LabelKey = closed("kind", ReconcileKind::VALUES);
const RECONCILE_LOOP: LabelKey = closed("loop", ReconcileLoop::VALUES);
const RECONCILE_ERROR: LabelKey = closed("reason", ReconcileErrorLabel::VALUES);

/// The only reason why a turn is orphaned.
pub(crate) const STALE_PROGRESS: &str = "stale_progress";

catalogue! {
    /// The families of the data plane, in the order of [`Family`].
    CATALOGUE: 46 {
        /// Streams whose provider call was started, after all checks; replays are not counted.
        StreamStarted: "stream_started" Kind::Counter, [PROVIDER, MODEL];
        /// Started streams that were finalized as completed, including those that the provider ended early.
        StreamCompleted: "stream_completed" Kind::Counter, [PROVIDER, MODEL];
        /// Started streams that were finalized in any other way, including cancelled ones.
        StreamFailed: "stream_failed" Kind::Counter, [PROVIDER, MODEL, ERROR_CODE];
        /// Running streams that lost the connection to their client, by stage of the stream.
        StreamDisconnected: "stream_disconnected" Kind::Counter, [STAGE];
        /// Streams running in this process.
        ActiveStreams: "active_streams" Kind::UpDown, [];
        /// Milliseconds from the provider request to its first delta.
        TtftProviderMs: "ttft_provider_ms" STREAM, [PROVIDER, MODEL];
        /// Milliseconds from receiving the provider's first delta to writing it to the client's response body.
        TtftOverheadMs: "ttft_overhead_ms" FAST, [PROVIDER, MODEL];
        /// Milliseconds from the start of a stream to its end, including finalization.
        StreamTotalLatencyMs: "stream_total_latency_ms" STREAM, [PROVIDER, MODEL];
        /// Authorized retries, edits and deletes of turns.
        TurnMutation: "turn_mutation" Kind::Counter, [OP, MUTATION_RESULT];
        /// Milliseconds that a retry, edit or delete of a turn took, without the stream that follows.
        TurnMutationLatencyMs: "turn_mutation_latency_ms" FAST, [OP];
        /// Attempts to deliver audit events to a configured sink.
        AuditEmit: "audit_emit" Kind::Counter, [AUDIT_RESULT];
        /// Milliseconds from the start of a finalization to its commit.
        FinalizationLatencyMs: "finalization_latency_ms" FAST, [];
        /// Quota decisions before a turn; the model is the effective one, or on reject the selected one.
        QuotaPreflight: "quota_preflight" Kind::Counter, [DECISION, MODEL, TIER];
        /// Committed quota reservations, counted once for each period.
        QuotaReserve: "quota_reserve" Kind::Counter, [PERIOD];
        /// Committed settlements of actual usage, counted once for each period.
        QuotaCommit: "quota_commit" Kind::Counter, [PERIOD];
        /// Settlements of actual usage that used more tokens than were reserved.
        QuotaOvershoot: "quota_overshoot" Kind::Counter, [PERIOD];
        /// Tokens reserved by allowed turns.
        QuotaEstimatedTokens: "quota_estimated_tokens" TOKENS, [];
        /// Input and output tokens in settlements of actual usage.
        QuotaActualTokens: "quota_actual_tokens" TOKENS, [];
        /// Completed streams that the provider ended early; also counted as completed.
        StreamIncomplete: "stream_incomplete" Kind::Counter, [PROVIDER, MODEL, INCOMPLETE_REASON];
        /// Cancellations requested.
        CancelRequested: "cancel_requested" Kind::Counter, [TRIGGER];
        /// Cancellations after which the provider connection was closed.
        CancelEffective: "cancel_effective" Kind::Counter, [TRIGGER];
        /// Milliseconds from a cancellation request until the provider connection was closed.
        TimeToAbortMs: "time_to_abort_ms" FAST, [TRIGGER];
        /// Finalized turns with the billing outcome `aborted`.
        StreamsAborted: "streams_aborted" Kind::Counter, [ABORT_TRIGGER];
        /// Uploads to existing chats; each upload is counted once.
        AttachmentUpload: "attachment_upload" Kind::Counter, [UPLOAD_KIND, UPLOAD_RESULT];
        /// Bytes of successful uploads.
        AttachmentUploadBytes: "attachment_upload_bytes" BYTES, [UPLOAD_KIND];
        /// Uploads that this process is working on.
        AttachmentsPending: "attachments_pending" Kind::UpDown, [];
        /// Images per turn, for turns with at least one image.
        ImageInputsPerTurn: "image_inputs_per_turn" COUNT, [];
        /// Provider objects that the cleanup deleted or found already deleted.
        CleanupCompleted: "cleanup_completed" Kind::Counter, [RESOURCE];
        /// Files whose cleanup failed permanently.
        CleanupFailed: "cleanup_failed" Kind::Counter, [FILE_RESOURCE];
        /// Cleanups that will be tried again.
        CleanupRetry: "cleanup_retry" Kind::Counter, [RESOURCE, RETRY_REASON];
        /// Attachment rows in a cleanup state; the value is at most 60 seconds old.
        CleanupBacklog: "cleanup_backlog" Kind::Gauge, [STATE, FILE_RESOURCE];
        /// Vector stores deleted although the cleanup of a file of their chat failed.
        CleanupVsWithFailedAttachments: "cleanup_vector_store_with_failed_attachments" Kind::Counter, [];
        /// Turns without progress that the watchdog found, counted in each scan.
        OrphanDetected: "orphan_detected" Kind::Counter, [ORPHAN_REASON];
        /// Turns without progress that the watchdog finalized.
        OrphanFinalized: "orphan_finalized" Kind::Counter, [ORPHAN_REASON];
        /// Seconds that a scan of the watchdog took, including failed scans.
        OrphanScanDurationSeconds: "orphan_scan_duration_seconds" SECS, [];
        /// Completed turns checked for a thread summary.
        ThreadSummaryTrigger: "thread_summary_trigger" Kind::Counter, [SUMMARY_TRIGGER];
        /// Runs of the thread summary handler that reached generation or commit.
        ThreadSummaryExecution: "thread_summary_execution" Kind::Counter, [SUMMARY_EXECUTION];
        /// Thread summaries that were discarded because the chat had been summarized further in the meantime.
        ThreadSummaryCasConflict: "thread_summary_cas_conflicts" Kind::Counter, [];
        /// Failed summary generations that left the previous summary in place.
        SummaryFallback: "summary_fallback" Kind::Counter, [];
        /// Finished code interpreter calls of settled turns.
        CodeInterpreterCalls: "code_interpreter_calls" Kind::Counter, [MODEL];
        /// Events that were enqueued together with what they report.
        OutboxEnqueue: "outbox_enqueue" Kind::Counter, [OUTBOX_KIND, OUTBOX_RESULT];
        /// Attempts to deliver events to a configured sink; `reject` makes a dead letter.
        OutboxHandler: "outbox_handler" Kind::Counter, [OUTBOX_KIND, OUTBOX_HANDLED];
        /// Dead letters that wait for a decision; the value is at most 60 seconds old.
        OutboxDeadLetterBacklog: "outbox_dead_letter_backlog" Kind::Gauge, [OUTBOX_KIND];
        /// Seconds since the oldest dead letter that waits for a decision was refused; 0 if there is none.
        OutboxDeadLetterOldestAgeSeconds: "outbox_dead_letter_oldest_age_seconds" Kind::Gauge, [OUTBOX_KIND];
        /// Seconds since the oldest event that is not delivered was enqueued; 0 if there is none.
        OutboxOldestPendingAgeSeconds: "outbox_oldest_pending_age_seconds" Kind::Gauge, [OUTBOX_KIND];
        /// Seconds from enqueuing an event until it was delivered to a configured sink.
        OutboxPendingAgeSeconds: "outbox_pending_age_seconds" SECS, [OUTBOX_KIND];
    }

    /// The families of the operator, which follow in the order of [`Family`].
    OPERATOR: 7 {
        /// Reconciles, including failed ones.
        Reconcile: "operator_reconcile" Kind::Counter, [RECONCILE_KIND, RECONCILE_LOOP];
        /// Seconds that a reconcile took. In the loop `object`, a tenant includes the wait for its pods.
        ReconcileDurationSeconds: "operator_reconcile_duration_seconds" SECS, [RECONCILE_KIND, RECONCILE_LOOP];
        /// Reconciles that failed and will be retried.
        ReconcileError: "operator_reconcile_error" Kind::Counter, [RECONCILE_KIND, RECONCILE_ERROR];
        /// Seconds from noticing a change until every ready pod runs its revision.
        ConfigPropagationSeconds: "operator_config_propagation_seconds" SECS, [];
        /// Tenants whose configuration is delivered to the pool.
        RenderedTenants: "operator_rendered_tenants" Kind::Gauge, [];
        /// Revisions that a pod refused.
        ConfigRejected: "operator_config_rejected" Kind::Counter, [];
        /// 1 while this process leads, else 0.
        Leader: "operator_leader" Kind::Gauge, [];
    }
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
