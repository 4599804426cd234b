//! Black-box tests of minichat: the data plane in this process on real sockets,
//! a real database and a scripted provider. Each test cites the rule of the
//! specification that it checks.

pub mod books;
pub mod child;
pub mod client;
pub mod cluster;
pub mod database;
pub mod disk;
pub mod exposition;
pub mod figures;
pub mod form;
pub mod harness;
pub mod installation;
pub mod manifest;
pub mod plans;
pub mod pool;
pub mod pooler;
pub mod postgres;
pub mod postgres_programs;
pub mod postgres_proxy;
pub mod raw_client;
pub mod raw_provider;
pub mod scripted_issuer;
pub mod sent_files;
pub mod site;
pub mod sse;
pub mod stored_files;
pub mod webhook_receiver;

#[cfg(test)]
mod readme;

pub use minichat_scripted_provider as scripted_provider;
