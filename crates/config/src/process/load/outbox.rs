//! `outbox.*`

use std::collections::HashSet;

use super::settings::Settings;
use crate::process::outbox::Outbox;

/// The name of a queue is at most so long, as in the database.
const MAX_NAME: usize = 128;

pub(super) fn outbox(settings: &mut Settings) -> Outbox {
    let outbox = Outbox {
        queues: [
            queue_name(settings, "outbox.queue_name"),
            queue_name(settings, "outbox.audit_queue_name"),
            queue_name(settings, "outbox.chat_cleanup_queue_name"),
            queue_name(settings, "outbox.cleanup_queue_name"),
            queue_name(settings, "outbox.thread_summary_queue_name"),
        ],
        num_partitions: settings.small("outbox.num_partitions"),
        lease: settings.seconds("outbox.lease_secs"),
        ack_headroom: settings.seconds("outbox.ack_headroom_secs"),
        backoff_base: settings.seconds("outbox.backoff_base_secs"),
        backoff_max: settings.seconds("outbox.backoff_max_secs"),
        max_attempts: [
            settings.small("outbox.max_attempts.usage"),
            settings.small("outbox.max_attempts.audit"),
            settings.small("thread_summary_worker.max_attempts"),
        ],
    };
    let names: HashSet<_> = outbox.queues.iter().collect();
    settings.require(
        names.len() == outbox.queues.len(),
        "outbox.queue_name",
        "the names of the queues must be different",
    );
    settings.require(
        outbox.num_partitions.is_power_of_two(),
        "outbox.num_partitions",
        "must be a power of two",
    );
    settings.require(
        outbox.ack_headroom < outbox.lease,
        "outbox.ack_headroom_secs",
        "must be less than outbox.lease_secs",
    );
    settings.require(
        outbox.backoff_base <= outbox.backoff_max,
        "outbox.backoff_max_secs",
        "must be at least outbox.backoff_base_secs",
    );
    outbox
}

fn queue_name(settings: &mut Settings, key: &'static str) -> String {
    let name = settings.text(key);
    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    settings.require(
        !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_usual),
        key,
        "must be 1 to 128 letters, digits, `.`, `_` and `-`",
    );
    name
}
