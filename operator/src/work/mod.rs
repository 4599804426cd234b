//! Work queues with priorities and delays, and the workers that take objects from them.

mod backoff;
mod delay_queue;
mod queue;
mod worker;

pub(crate) use backoff::Backoff;
pub(crate) use queue::{Queue, QueueReceiver, QueueReceivers, Queues, Request, queue};
pub(crate) use worker::{Requeue, run};
