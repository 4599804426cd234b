//! What the dispatcher reads and writes. It never has more than a few transactions
//! at a time, so that turns find connections.

use std::sync::Arc;
use std::time::Duration;

use minichat_core::TenantId;
use minichat_store::{
    BoxFuture, Delivery, DueTenant, PendingMessage, Share, Store, StoreError, Tx,
};
use tokio::sync::Semaphore;

/// Transactions at a time.
const TRANSACTIONS: usize = 3;

#[derive(Clone)]
pub(super) struct Records {
    store: Store,
    transactions: Arc<Semaphore>,
}

impl Records {
    pub(super) fn of(store: Store) -> Self {
        Self {
            store,
            transactions: Arc::new(Semaphore::new(TRANSACTIONS)),
        }
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _one = self.transactions.acquire().await;
        self.store.write(job).await
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        job: impl for<'t> FnMut(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _one = self.transactions.acquire().await;
        self.store.read(job).await
    }

    /// Tenants of all partitions whose next attempt is due.
    pub(super) async fn due(&self, queue: &Arc<str>) -> Result<Vec<DueTenant>, StoreError> {
        let queue = Arc::clone(queue);
        self.read(move |tx| {
            let queue = Arc::clone(&queue);
            Box::pin(async move { tx.outbox_due(&queue).await })
        })
        .await
    }

    pub(super) async fn due_in(
        &self,
        queue: &Arc<str>,
        partition: u32,
    ) -> Result<Vec<DueTenant>, StoreError> {
        let queue = Arc::clone(queue);
        self.read(move |tx| {
            let queue = Arc::clone(&queue);
            Box::pin(async move { tx.outbox_due_in(&queue, partition).await })
        })
        .await
    }

    pub(super) async fn list(
        &self,
        queue: &Arc<str>,
        partition: u32,
        tenants: Vec<TenantId>,
        share: Share,
    ) -> Result<Vec<PendingMessage>, StoreError> {
        let (queue, tenants) = (Arc::clone(queue), Arc::<[TenantId]>::from(tenants));
        self.read(move |tx| {
            let (queue, tenants) = (Arc::clone(&queue), Arc::clone(&tenants));
            Box::pin(async move { tx.outbox_list(&queue, partition, &tenants, share).await })
        })
        .await
    }

    /// Leases those of `wanted`, queues and partitions, that nobody else holds.
    pub(super) async fn claim(
        &self,
        wanted: &Arc<[(String, u32)]>,
        token: &str,
        lease: Duration,
    ) -> Result<Vec<(String, u32)>, StoreError> {
        let (wanted, token) = (Arc::clone(wanted), token.to_owned());
        self.write(move |tx| {
            let (wanted, token) = (Arc::clone(&wanted), token.clone());
            Box::pin(async move { tx.outbox_claim(&wanted, &token, lease).await })
        })
        .await
    }

    pub(super) async fn release(
        &self,
        queue: &Arc<str>,
        partition: u32,
        token: &str,
    ) -> Result<(), StoreError> {
        let (queue, token) = (Arc::clone(queue), token.to_owned());
        self.write(move |tx| {
            let released = tx.outbox_release(&queue, partition, &token);
            Box::pin(async move { released })
        })
        .await
    }

    /// Acknowledges events of tenants without a sink (PLAT-41), at most `limit`.
    /// Returns how many.
    pub(super) async fn acknowledge_all(
        &self,
        queue: &Arc<str>,
        tenants: Vec<TenantId>,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let (queue, tenants) = (Arc::clone(queue), Arc::<[TenantId]>::from(tenants));
        self.write(move |tx| {
            let (queue, tenants) = (Arc::clone(&queue), Arc::clone(&tenants));
            Box::pin(async move { tx.outbox_acknowledge_all(&queue, &tenants, limit).await })
        })
        .await
    }

    /// Returns whether the process was the holder.
    pub(super) async fn acknowledge(
        &self,
        delivery: &Delivery,
        messages: &[PendingMessage],
    ) -> Result<bool, StoreError> {
        let delivery = delivery.clone();
        let ids: Vec<i64> = messages.iter().map(|it| it.id).collect();
        let letters: Vec<i64> = messages.iter().filter_map(|it| it.dead_letter).collect();
        let marked = self.write(move |tx| {
            let (delivery, ids, letters) = (delivery.clone(), ids.clone(), letters.clone());
            Box::pin(async move { tx.outbox_acknowledge(&delivery, &ids, &letters).await })
        });
        Ok(marked.await? > 0)
    }

    pub(super) async fn park(
        &self,
        delivery: &Delivery,
        wait: Duration,
        error: &str,
    ) -> Result<bool, StoreError> {
        let (delivery, error) = (delivery.clone(), error.to_owned());
        let parked = self.write(move |tx| {
            let (delivery, error) = (delivery.clone(), error.clone());
            Box::pin(async move { tx.outbox_park(&delivery, wait, &error).await })
        });
        Ok(parked.await?.is_some())
    }

    pub(super) async fn park_running(
        &self,
        delivery: &Delivery,
        token: &str,
        wait: Duration,
    ) -> Result<bool, StoreError> {
        let (delivery, token) = (delivery.clone(), token.to_owned());
        let parked = self.write(move |tx| {
            let (delivery, token) = (delivery.clone(), token.clone());
            Box::pin(async move { tx.outbox_park_running(&delivery, &token, wait).await })
        });
        Ok(parked.await?.is_some())
    }

    pub(super) async fn renew(
        &self,
        delivery: &Delivery,
        token: &str,
        wait: Duration,
    ) -> Result<bool, StoreError> {
        let (delivery, token) = (delivery.clone(), token.to_owned());
        self.write(move |tx| {
            let (delivery, token) = (delivery.clone(), token.clone());
            Box::pin(async move { tx.outbox_renew(&delivery, &token, wait).await })
        })
        .await
    }

    pub(super) async fn reject(
        &self,
        delivery: &Delivery,
        messages: Vec<i64>,
        attempts: u32,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let (delivery, reason) = (delivery.clone(), reason.to_owned());
        let messages = Arc::<[i64]>::from(messages);
        self.write(move |tx| {
            let (delivery, reason) = (delivery.clone(), reason.clone());
            let messages = Arc::clone(&messages);
            Box::pin(async move {
                tx.outbox_reject(&delivery, &messages, attempts, &reason)
                    .await
            })
        })
        .await
    }
}
