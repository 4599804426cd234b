//! The client and its adapters against the scripted provider, over real
//! sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by panicking"
)]

mod answers;
mod connections;
mod destinations;
mod failures;
mod posts;
mod requests;
mod servers;
mod storage;
mod support;
mod ways;
