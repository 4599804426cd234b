//! The data plane: serves the tenants of a configuration source.
//! [`start`] does everything that the binary does after reading its
//! configuration, so that tests run what users run.

mod admin;
pub mod app;
pub mod ask;
pub mod attachments;
pub mod backup;
pub mod books;
pub mod caller;
mod chat_deletion;
pub mod check_config;
pub mod cleanup;
pub mod config_source;
pub mod database;
pub mod dead_letter;
pub mod drain;
pub mod erasure;
mod heartbeat;
pub mod http;
pub mod jobs;
pub mod open_turns;
pub mod outbox;
pub mod problem;
mod quota;
mod serve;
mod settings;
mod summary;
pub mod tenant_owners;
pub mod thumbnailer;
pub mod turn;
pub mod upload_permits;

pub use serve::{Running, start, start_traced};
