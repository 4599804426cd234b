//! Which partitions have new messages. Waking is a lock and no more: it is on the
//! path of every turn. Wake-ups of one partition coalesce (PLAT-36).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use minichat_config::process::OutboxKind;
use tokio::sync::Notify;

/// A partition of the queue of a kind.
pub(super) type Place = (OutboxKind, u32);

#[derive(Debug, Default)]
pub(super) struct Wake {
    wanted: Mutex<HashSet<Place>>,
    notify: Notify,
}

impl Wake {
    pub(super) fn want(&self, kind: OutboxKind, partition: u32) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = wanted.insert((kind, partition));
        drop(wanted);
        if is_new {
            self.notify.notify_one();
        }
    }

    /// Everything that was wanted since the last call.
    pub(super) fn take(&self) -> HashSet<Place> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wanted)
    }

    /// Returns when something is wanted.
    pub(super) async fn wanted(&self) {
        self.notify.notified().await;
    }
}
