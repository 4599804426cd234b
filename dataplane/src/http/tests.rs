//! The API in process, on a SQLite file of its own: everything but the turn.

mod access;
mod documents;
mod faults;
mod harness;
mod limits;
mod lists;
mod resources;
mod send;
