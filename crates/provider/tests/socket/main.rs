//! The client and its adapters against the scripted provider, over real
//! sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by panicking"
)]

#[path = "../../../../tests/src/scripted_provider/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the double is shared with the black-box suites, which use the rest of it"
)]
mod scripted_provider;

mod answers;
mod connections;
mod failures;
mod requests;
mod support;
