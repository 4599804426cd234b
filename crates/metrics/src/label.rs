//! The closed label sets (PLAT-54, PLAT-58): a value outside them cannot be
//! written at a call site.

/// Declares a closed label set: the enum, its values in order, and both
/// directions of the mapping to text.
macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The label values, in the order of `ALL`.
            pub const VALUES: &'static [&'static str] = &[$($value),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value),+ }
            }

            /// The variant with this label value; `None` outside the set.
            pub fn from_value(value: &str) -> Option<Self> {
                match value {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

closed_set! {
    /// Why a started stream failed: the turn's error code, `cancelled`, or
    /// `other` (TURN-39, D2).
    ErrorLabel {
        ProviderError = "provider_error",
        ProviderTimeout = "provider_timeout",
        RateLimited = "rate_limited",
        WebSearchCallsExceeded = "web_search_calls_exceeded",
        CodeInterpreterCallsExceeded = "code_interpreter_calls_exceeded",
        MessagePersistenceFailed = "message_persistence_failed",
        InternalError = "internal_error",
        ContextLengthExceeded = "context_length_exceeded",
        ValidationError = "validation_error",
        InputTooLong = "input_too_long",
        OrphanTimeout = "orphan_timeout",
        Cancelled = "cancelled",
        Other = "other",
    }
}

impl ErrorLabel {
    /// The label of a turn's error code; unknown codes are `other`.
    pub fn of_code(code: &str) -> Self {
        Self::from_value(code).unwrap_or(Self::Other)
    }
}

closed_set! {
    /// The stage of a stream at which its client connection was lost.
    Stage {
        BeforeFirstToken = "before_first_token",
        MidStream = "mid_stream",
        /// The terminal event was produced but not completely written.
        AfterDone = "after_done",
    }
}

closed_set! {
    /// What raised a cancellation signal.
    Trigger {
        UserStop = "user_stop",
        Disconnect = "disconnect",
        /// A time limit of the provider expired.
        Timeout = "timeout",
    }
}

closed_set! {
    /// Why a turn was billed as aborted.
    AbortTrigger {
        /// The client left or asked to stop.
        ClientDisconnect = "client_disconnect",
        /// A start-up recovery found the turn of a process that died (D32).
        PodCrash = "pod_crash",
        /// The watchdog ended it.
        OrphanTimeout = "orphan_timeout",
        /// The server aborted it, for example because of a drain.
        InternalAbort = "internal_abort",
    }
}

closed_set! {
    MutationOp {
        Retry = "retry",
        Edit = "edit",
        Delete = "delete",
    }
}

closed_set! {
    MutationResult {
        Ok = "ok",
        NotLatest = "not_latest",
        InvalidState = "invalid_state",
        Forbidden = "forbidden",
        GenerationInProgress = "generation_in_progress",
        /// Everything else, including a chat or turn that was not found.
        Error = "error",
    }
}

closed_set! {
    /// The result of one delivery attempt to an audit sink.
    AuditResult {
        Ok = "ok",
        Retry = "retry",
        Reject = "reject",
    }
}

closed_set! {
    /// The decision of a quota preflight.
    Decision {
        Allow = "allow",
        Downgrade = "downgrade",
        Reject = "reject",
    }
}

closed_set! {
    TierLabel {
        Premium = "premium",
        Standard = "standard",
    }
}

closed_set! {
    /// A quota period.
    Period {
        Daily = "daily",
        Monthly = "monthly",
    }
}

closed_set! {
    /// Why a provider stopped early (TURN-30).
    IncompleteReasonLabel {
        MaxTokens = "max_tokens",
        ContentFilter = "content_filter",
        Other = "other",
    }
}

closed_set! {
    /// The kind of an attachment; an unsupported type counts by its MIME
    /// class, else as document.
    UploadKind {
        Document = "document",
        Image = "image",
    }
}

closed_set! {
    UploadResult {
        Ok = "ok",
        FileTooLarge = "file_too_large",
        UnsupportedType = "unsupported_type",
        ProviderError = "provider_error",
        StorageLimitExceeded = "storage_limit_exceeded",
        ConcurrencyLimit = "concurrency_limit",
        DocumentLimitExceeded = "document_limit_exceeded",
        Other = "other",
    }
}

closed_set! {
    /// What a cleanup deletes at the provider.
    CleanupResource {
        File = "file",
        VectorStore = "vector_store",
    }
}

closed_set! {
    /// Why a cleanup will be tried again.
    CleanupRetryReason {
        Provider4xx = "provider_4xx",
        Provider5xx = "provider_5xx",
        RateLimited = "rate_limited",
        Timeout = "timeout",
        Transport = "transport",
        Database = "database",
        Config = "config",
        Other = "other",
    }
}

closed_set! {
    /// The cleanup states that form a backlog.
    BacklogState {
        Pending = "pending",
        Failed = "failed",
    }
}

closed_set! {
    /// Whether a completed turn made a thread summary necessary.
    SummaryTrigger {
        Scheduled = "scheduled",
        NotNeeded = "not_needed",
    }
}

closed_set! {
    /// How one run of the summary handler ended.
    SummaryExecution {
        Success = "success",
        ProviderError = "provider_error",
        Timeout = "timeout",
        Retry = "retry",
        /// The provider's output was unusable.
        EmptySummary = "empty_summary",
    }
}
closed_set! {
    /// What an event of the outbox is about (PLAT-39).
    OutboxKindLabel {
        Usage = "usage",
        Audit = "audit",
        ChatCleanup = "chat_cleanup",
        AttachmentCleanup = "attachment_cleanup",
        ThreadSummary = "thread_summary",
    }
}

closed_set! {
    /// Whether an event was enqueued.
    OutboxResult {
        Ok = "ok",
        Error = "error",
    }
}

closed_set! {
    /// How an attempt to deliver events ended.
    OutboxHandled {
        Success = "success",
        Retry = "retry",
        Reject = "reject",
    }
}

closed_set! {
    /// What the operator reconciles.
    ReconcileKind {
        ChatTenant = "chat_tenant",
        ChatQuota = "chat_quota",
        RenderedSecret = "rendered_secret",
        CronJob = "cron_job",
    }
}

closed_set! {
    /// The operator's loops (K8S-11).
    ReconcileLoop {
        Render = "render",
        Object = "object",
    }
}

closed_set! {
    /// Why a reconcile is tried again.
    ReconcileErrorLabel {
        /// The API server did not answer, or not in time.
        Unavailable = "unavailable",
        /// The operator's role lacks a right.
        Forbidden = "forbidden",
        /// The API server found the object invalid.
        Invalid = "invalid",
        /// The object has changed since it was read.
        Conflict = "conflict",
        /// The reconcile took longer than it may.
        Deadline = "deadline",
        /// Another process leads.
        NotLeading = "not_leading",
        Other = "other",
    }
}
