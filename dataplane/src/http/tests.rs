//! The API in process, on its own SQLite file: everything except the turn.

mod access;
mod documents;
mod faults;
mod harness;
mod limits;
mod lists;
mod resources;
mod send;
