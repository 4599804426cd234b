//! Black-box tests of the data plane, each on SQLite and on PostgreSQL.

#[cfg(test)]
mod ask;
mod attachments;
#[cfg(test)]
mod audit_events;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod bearer_tokens;
#[cfg(test)]
mod books;
#[cfg(test)]
mod chat_changes;
#[cfg(test)]
mod chats;
#[cfg(test)]
mod cleanup;
#[cfg(test)]
mod cleanup_jobs;
mod cleanup_tenants;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod context_plans;
#[cfg(test)]
mod cross_origin;
#[cfg(test)]
mod database_failures;
#[cfg(test)]
mod database_outages;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod dead_processes;
#[cfg(test)]
mod deliveries;
#[cfg(test)]
mod delivery_turns;
#[cfg(test)]
mod directories;
#[cfg(test)]
mod disconnects;
#[cfg(test)]
mod erasures;
#[cfg(test)]
mod events;
#[cfg(test)]
mod every_route;
mod exactness;
#[cfg(test)]
mod finalization;
#[cfg(test)]
mod first_turn;
#[cfg(test)]
mod foreign_inputs;
#[cfg(test)]
mod issuers;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod log_steps;
#[cfg(test)]
mod logs;
mod long_chats;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod message_attachments;
#[cfg(test)]
mod metric_families;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod outbox;
#[cfg(test)]
mod pending_tenants;
#[cfg(test)]
mod persons;
#[cfg(test)]
mod poolers;
#[cfg(test)]
mod process_end;
#[cfg(test)]
mod progress;
#[cfg(test)]
mod prompts;
#[cfg(test)]
mod provider_failures;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod replays;
#[cfg(test)]
mod request_heads;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod restarts;
mod retention;
#[cfg(test)]
mod round_trips;
mod routes;
#[cfg(test)]
mod scoping;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod tenant_owners;
#[cfg(test)]
mod thread_summaries;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tool_orphans;
mod tools;
#[cfg(test)]
mod uploads;
mod webhooks;
#[cfg(test)]
mod worked_example;
