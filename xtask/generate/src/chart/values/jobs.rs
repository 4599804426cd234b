//! Values of the jobs that run on a schedule.

use super::{ChartValue, Kind, NOT_EMPTY, value};

pub(super) fn watchdog() -> Vec<ChartValue> {
    vec![
        value(
            "watchdog.schedule",
            Kind::Text(NOT_EMPTY),
            "\"* * * * *\"",
            "Cron schedule of the search for turns that a crashed process left running. On SQLite the pool's pod searches by itself. `pool.config.orphan_watchdog` says when a turn counts as orphaned and whether the search is enabled. If you change the schedule, adapt `startingDeadlineSeconds`, `activeDeadlineSeconds` and `missedAfterSeconds`.",
        ),
        value(
            "watchdog.timeZone",
            Kind::Text(""),
            "\"\"",
            "Time zone of the schedule, such as `Etc/UTC`; empty = the cluster's.",
        ),
        value(
            "watchdog.suspend",
            Kind::Bool,
            "false",
            "Whether the schedule is suspended.",
        ),
        value(
            "watchdog.startingDeadlineSeconds",
            Kind::Integer(10, 172_800),
            "120",
            "Seconds after which a search that could not start is skipped. Set it to twice the period of the schedule.",
        ),
        value(
            "watchdog.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "50",
            "Seconds after which a search is ended. Set it to less than the period of the schedule. The next search finds the remaining turns.",
        ),
        value(
            "watchdog.missedAfterSeconds",
            Kind::Integer(30, 604_800),
            "300",
            "Seconds without a finished search after which the condition `JobsHealthy` of tenants reports a missed search. Set it to at least twice the period of the schedule plus both deadlines.",
        ),
        value(
            "watchdog.resources",
            Kind::Resources,
            r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#,
            "Resource requests and limits.",
        ),
    ]
}

pub(super) fn cleanup() -> Vec<ChartValue> {
    vec![
        value(
            "cleanup.schedule",
            Kind::Text(NOT_EMPTY),
            "\"*/5 * * * *\"",
            "Cron schedule of the clean-up, which deletes files and vector stores of deleted chats and attachments at their providers. On SQLite the pool's pod cleans up by itself. `pool.config.cleanup_worker` says whether the clean-up is enabled, and how often a file is tried. If you change the schedule, adapt the seconds below.",
        ),
        value(
            "cleanup.timeZone",
            Kind::Text(""),
            "\"\"",
            "Time zone of the schedule, such as `Etc/UTC`; empty = the cluster's.",
        ),
        value(
            "cleanup.suspend",
            Kind::Bool,
            "false",
            "Whether the schedule is suspended. What was deleted is then kept at the providers.",
        ),
        value(
            "cleanup.startingDeadlineSeconds",
            Kind::Integer(10, 172_800),
            "600",
            "Seconds after which a clean-up that could not start is skipped. Set it to twice the period of the schedule.",
        ),
        value(
            "cleanup.timeBudgetSeconds",
            Kind::Integer(1, 86_400),
            "240",
            "Seconds that a clean-up may take, more than `cleanup_worker.call_timeout_secs`. What is left waits for the next one.",
        ),
        value(
            "cleanup.activeDeadlineSeconds",
            Kind::Integer(10, 86_400),
            "290",
            "Seconds after which a clean-up is ended from outside. Set it to less than the period of the schedule, and to more than `cleanup.timeBudgetSeconds` and `cleanup_worker.call_timeout_secs` (30) together.",
        ),
        value(
            "cleanup.resources",
            Kind::Resources,
            r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}"#,
            "Resource requests and limits.",
        ),
    ]
}
