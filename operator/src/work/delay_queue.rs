//! A delay queue that holds each object at most once. `tokio_util`'s `DelayQueue` returns objects
//! that are due in the same millisecond in the opposite order, and needs a second map to find
//! an object.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use tokio::time::Instant;

/// A time, and a number that tells apart what has the same.
type Place = (Instant, u64);

pub(crate) struct DelayQueue<T, W> {
    order: BTreeMap<Place, (T, W)>,
    places: HashMap<T, Place>,
    count: u64,
}

impl<T: Clone + Eq + Hash, W> DelayQueue<T, W> {
    pub(crate) fn new() -> Self {
        Self {
            order: BTreeMap::new(),
            places: HashMap::new(),
            count: 0,
        }
    }

    /// Takes the place of what was set for `object` before.
    pub(crate) fn set(&mut self, object: T, why: W, at: Instant) {
        self.clear(&object);
        self.count += 1;
        let place = (at, self.count);
        self.places.insert(object.clone(), place);
        self.order.insert(place, (object, why));
    }

    pub(crate) fn clear(&mut self, object: &T) {
        if let Some(place) = self.places.remove(object) {
            self.order.remove(&place);
        }
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first, if it is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(T, W)> {
        let first = self.order.first_entry()?;
        let (at, _) = *first.key();
        if at > now {
            return None;
        }
        let (object, why) = first.remove();
        self.places.remove(&object);
        Some((object, why))
    }
}
