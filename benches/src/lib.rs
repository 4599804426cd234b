//! The side-by-side benchmark: what minichat adds to a provider's own answer, beside nginx and a bare relay.
//!
//! Absolute figures differ from machine to machine, so every goal compares subjects of the same round, and every
//! round measures all of them, one after the other, in a rotating order. The flow:
//!
//! ```text
//! subject::Fleet (provider, nginx, bare relay, data planes)
//!    └─ round::measure ─> Samples ─> goals::judge ─> report (CSV, Markdown, terminal)
//!          └─ load::run ─> Reading
//! ```
//!
//! Words: a *subject* is one server that is measured; *direct* is the scripted provider without anything in
//! between; *added* means subject minus direct in the same round; *remote* is a data plane with a network between itself
//! and PostgreSQL (`network`); *before* is the data plane of an earlier commit.

pub mod clock;
pub mod cpu;
pub mod goals;
pub mod interrupt;
pub mod load;
pub mod network;
pub mod postgres;
pub mod report;
pub mod round;
pub mod samples;
pub mod subject;
pub mod uploads;
pub mod waits;
