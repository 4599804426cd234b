//! Delivery of what the outbox holds.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "what delivers events calls it next")
)]
mod webhook;
