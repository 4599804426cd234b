//! Provider and model ids as label values. They come from tenants, so the number of
//! distinct ids is limited; later ones count as `other` (PLAT-54).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use minichat_metrics::catalogue::{OTHER, Row};
use opentelemetry::StringValue;

/// How many distinct label values and label sets are kept.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    values: usize,
}

impl Limits {
    pub(super) const fn new(max_label_values: usize) -> Self {
        Self {
            values: max_label_values,
        }
    }

    /// Distinct pairs of a provider and a model. A model usually has one provider, so
    /// there are few pairs. Without this limit there could be as many as the square of
    /// `values`.
    const fn pairs(self) -> usize {
        self.values.saturating_mul(2)
    }

    /// Maximum number of label sets of a family, including `other`.
    pub(super) fn label_sets(self, row: &Row) -> usize {
        let closed: usize = row
            .labels
            .iter()
            .filter_map(|l| l.values)
            .map(<[_]>::len)
            .product();
        let open = match row.labels.iter().filter(|l| l.values.is_none()).count() {
            0 => 1,
            1 => self.values.saturating_add(1),
            // The pairs, each provider with `other`, `other` with each model,
            // and `other` twice.
            _ => self.pairs().saturating_add(self.pairs()).saturating_add(1),
        };
        closed.saturating_mul(open)
    }
}

/// A provider and a model as label values.
type Pair = (StringValue, StringValue);

/// The ids seen so far. Looking up a known id needs a read lock and no allocation.
pub(super) struct CappedIds {
    limits: Limits,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    providers: HashSet<Arc<str>>,
    models: HashSet<Arc<str>>,
    /// Pairs of known ids, by provider, then by model.
    pairs: HashMap<Arc<str>, HashMap<Arc<str>, Pair>>,
    pair_count: usize,
}

impl CappedIds {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            known: RwLock::default(),
        }
    }

    /// The label value of a model alone.
    pub(super) fn model(&self, model: &str) -> StringValue {
        if let Some(known) = self.read().models.get(model) {
            return known.clone().into();
        }
        let known = insert_capped(&mut self.write().models, model, self.limits.values);
        known.map_or(OTHER.into(), StringValue::from)
    }

    /// The label values of a provider and a model.
    pub(super) fn pair(&self, provider: &str, model: &str) -> Pair {
        if let Some(pair) = self.read().pair(provider, model) {
            return pair.clone();
        }
        let mut known = self.write();
        let provider = insert_capped(&mut known.providers, provider, self.limits.values);
        let model = insert_capped(&mut known.models, model, self.limits.values);
        match (provider, model) {
            (Some(provider), Some(model)) => {
                known.insert_pair(provider, model, self.limits.pairs())
            }
            (provider, model) => (
                provider.map_or(OTHER.into(), StringValue::from),
                model.map_or(OTHER.into(), StringValue::from),
            ),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn pair(&self, provider: &str, model: &str) -> Option<&Pair> {
        self.pairs.get(provider)?.get(model)
    }

    /// The pair if it is known or there is room for it, else the provider
    /// with `other`.
    fn insert_pair(&mut self, provider: Arc<str>, model: Arc<str>, limit: usize) -> Pair {
        if let Some(pair) = self.pair(&provider, &model) {
            return pair.clone();
        }
        if self.pair_count >= limit {
            return (provider.into(), OTHER.into());
        }
        self.pair_count += 1;
        let pair = (provider.clone().into(), model.clone().into());
        let of_provider = self.pairs.entry(provider).or_default();
        of_provider.insert(model, pair.clone());
        pair
    }
}

/// The id itself if it is known or there is room for it.
fn insert_capped(known: &mut HashSet<Arc<str>>, id: &str, limit: usize) -> Option<Arc<str>> {
    if let Some(known) = known.get(id) {
        return Some(known.clone());
    }
    if known.len() >= limit {
        return None;
    }
    let id: Arc<str> = id.into();
    known.insert(id.clone());
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ids: &CappedIds, provider: &str, model: &str) -> (String, String) {
        let (provider, model) = ids.pair(provider, model);
        (provider.as_str().to_owned(), model.as_str().to_owned())
    }

    /// PLAT-54
    #[test]
    fn later_ids_are_other_and_earlier_ones_keep_their_value() {
        let ids = CappedIds::new(Limits::new(2));
        assert_eq!(ids.model("a").as_str(), "a");
        assert_eq!(ids.model("b").as_str(), "b");
        assert_eq!(ids.model("c").as_str(), "other");
        assert_eq!(ids.model("a").as_str(), "a");
        assert_eq!(pair(&ids, "p", "c"), ("p".into(), "other".into()));
        assert_eq!(pair(&ids, "q", "a"), ("q".into(), "a".into()));
        assert_eq!(pair(&ids, "r", "b"), ("other".into(), "b".into()));
    }

    /// PLAT-54
    #[test]
    fn pairs_have_a_limit_of_their_own_and_keep_the_provider() {
        let ids = CappedIds::new(Limits::new(3));
        let mut seen = HashSet::new();
        for provider in ["a", "b", "c"] {
            for model in ["x", "y", "z"] {
                seen.insert(pair(&ids, provider, model));
            }
        }
        assert_eq!(seen.len(), 7, "six pairs and (c, other): {seen:?}");
        assert!(seen.contains(&("c".into(), "other".into())), "{seen:?}");
    }
}
