//! One suite that runs on both databases.

mod admission;
mod attachments;
mod books;
mod cleanup;
mod cleanup_upgrade;
mod deliveries;
mod fixture;
mod flushes;
mod group_commit;
mod message_attachments;
mod one_statement;
mod outages;
mod outbox;
mod paging;
mod plans;
mod pool;
mod processes;
mod proxy;
mod purge;
mod quota;
mod running;
mod schema;
mod specified_tables;
mod tenants;
mod thread_summaries;
mod tls;
mod turns;
mod vector_stores;

use fixture::{Db, on_both_databases};
