//! Work queues: what is enqueued, in which order it is reconciled, and when it is requeued.

mod backoff;
mod delay_queue;
mod queue;
mod worker;

pub(crate) use backoff::Backoff;
pub(crate) use queue::{Queue, QueueReceiver, QueueReceivers, Queues, Request, queue};
pub(crate) use worker::{Requeue, run};
