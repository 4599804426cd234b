//! One suite for both databases: what holds on one holds on the other.

mod admission;
mod fixture;
mod group_commit;
mod outages;
mod outbox;
mod paging;
mod quota;
mod running;
mod schema;
mod tenants;
mod tls;
mod turns;

use fixture::{Db, on_both_databases};
