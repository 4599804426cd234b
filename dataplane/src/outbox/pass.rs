//! One pass over a partition: while this process has its lease, it delivers what is
//! due, until nothing is left or the time is over.

use std::collections::HashMap;
use std::sync::Arc;

use minichat_core::TenantId;
use minichat_store::{Delivery, DueTenant, Holder, PendingMessage, Share, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::delivery::{Left, TenantDelivery};
use super::handler::{self, Target};
use super::shared::Shared;
use super::wake::Place;

/// Tenants whose messages are in memory at a time.
const TENANTS: usize = 16;
/// Messages of one tenant.
const SHARE: Share = Share {
    messages: 100,
    bytes: 1 << 20,
};

pub(super) struct Pass {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    pub(super) queue: Arc<str>,
    /// Of the lease.
    pub(super) token: String,
    /// When the pass ends, long before its lease.
    pub(super) until: Instant,
}

/// Why a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PassEnd {
    /// Nothing is left that can be delivered now.
    Done,
    /// There may be more.
    TimeIsOver,
}

/// A tenant of this process that is due, and who takes its messages.
type Due = (DueTenant, Target);

impl Pass {
    pub(super) async fn run(self) -> PassEnd {
        let delivered = self.deliver().await;
        let end = delivered.unwrap_or_else(|error| {
            tracing::warn!(queue = &*self.queue, partition = self.place.1, %error, "events that are due cannot be read");
            PassEnd::Done
        });
        // A lease that cannot be given back ends by itself.
        let records = &self.shared.records;
        let released = records.release(&self.queue, self.place.1, &self.token);
        if let Err(error) = released.await {
            tracing::debug!(%error, "a lease is not given back");
        }
        end
    }

    async fn deliver(&self) -> Result<PassEnd, StoreError> {
        loop {
            let due = self.due().await?;
            let mut is_done = true;
            for some in due.chunks(TENANTS) {
                if Instant::now() >= self.until {
                    break;
                }
                for left in self.deliver_to(some).await? {
                    // A delivery that ended without a word is repeated later.
                    is_done &= !matches!(left.await, Ok(Left::Advanced));
                }
            }
            if Instant::now() >= self.until {
                return Ok(PassEnd::TimeIsOver);
            }
            if is_done {
                return Ok(PassEnd::Done);
            }
        }
    }

    /// Tenants without a sink are left to the poll, and those that this process does
    /// not serve to others.
    async fn due(&self) -> Result<Vec<Due>, StoreError> {
        let due = self
            .shared
            .records
            .due_in(&self.queue, self.place.1)
            .await?;
        let with_sink = due.into_iter().filter_map(|due| {
            let runtime = self.shared.tenants.get(due.tenant_id)?;
            let target = handler::target(&self.shared, &runtime, self.place.0)?;
            (!matches!(target, Target::Nobody)).then_some((due, target))
        });
        let mut due: Vec<Due> = with_sink.collect();
        // Those whose turn does not come in this pass are not always the same.
        let random = Uuid::new_v4().as_u128() % (due.len().max(1) as u128);
        due.rotate_left(usize::try_from(random).unwrap_or_default());
        Ok(due)
    }

    /// Begins the deliveries of some tenants, each in its own task.
    async fn deliver_to(&self, due: &[Due]) -> Result<Vec<oneshot::Receiver<Left>>, StoreError> {
        let tenants = due.iter().map(|(due, _)| due.tenant_id).collect();
        let records = &self.shared.records;
        let listed = records
            .list(&self.queue, self.place.1, tenants, SHARE)
            .await?;
        let mut messages = HashMap::<TenantId, Vec<PendingMessage>>::new();
        for message in listed {
            messages.entry(message.tenant_id).or_default().push(message);
        }
        let mut running = Vec::with_capacity(due.len());
        for (due, target) in due {
            let Some(messages) = messages.remove(&due.tenant_id) else {
                continue;
            };
            let permit = self.shared.permits.healthy().await;
            let delivery = TenantDelivery {
                shared: Arc::clone(&self.shared),
                kind: self.place.0,
                target: target.clone(),
                delivery: self.delivery(due),
                attempts: due.attempts,
                messages,
                until: self.until,
                parked_until: None,
                permit,
            };
            let (left, is_left) = oneshot::channel();
            self.shared.tasks.spawn(delivery.run(left));
            running.push(is_left);
        }
        Ok(running)
    }

    fn delivery(&self, due: &DueTenant) -> Delivery {
        Delivery {
            queue: self.queue.to_string(),
            partition: self.place.1,
            tenant_id: due.tenant_id,
            holder: Holder::OfPartition(self.token.clone()),
            is_parked: due.attempts > 0,
        }
    }
}
