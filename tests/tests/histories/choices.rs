//! The random choices of one history. They come from a seed or from a list, so
//! that a failing history can be repeated and shortened.

/// A source of choices that records them.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    source: Source,
    made: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Source {
    /// The state of a `SplitMix64` generator.
    Seed(u64),
    /// The rest of a list, in reverse order.
    Given(Vec<u32>),
}

impl Choices {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self {
            source: Source::Seed(seed),
            made: Vec::new(),
        }
    }

    pub(crate) fn given(list: &[u32]) -> Self {
        Self {
            source: Source::Given(list.iter().rev().copied().collect()),
            made: Vec::new(),
        }
    }

    /// The choices so far.
    pub(crate) fn made(&self) -> &[u32] {
        &self.made
    }

    /// Whether a given list is used up. From then on every choice is 0.
    pub(crate) fn are_used_up(&self) -> bool {
        matches!(&self.source, Source::Given(left) if left.is_empty())
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let drawn = match &mut self.source {
            Source::Seed(state) => {
                let high = split_mix(state) >> 33;
                u32::try_from(high % u64::from(bound)).unwrap_or(0)
            }
            Source::Given(left) => left.pop().unwrap_or(0) % bound,
        };
        self.made.push(drawn);
        drawn
    }

    /// The index of one of `weights`, chosen in proportion to them; `None` if
    /// all are zero.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let sum = weights.iter().sum();
        if sum == 0 {
            return None;
        }
        let mut point = self.below(sum);
        weights.iter().position(|&weight| {
            let is_here = point < weight;
            point = point.saturating_sub(weight);
            is_here
        })
    }

    /// One of `items`; `None` if there are none.
    pub(crate) fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let bound = u32::try_from(items.len()).unwrap_or(u32::MAX);
        if bound == 0 {
            return None;
        }
        items.get(self.below(bound) as usize)
    }

    /// True with a probability of `percent` per cent.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        // Inverted, so that choice 0 means that nothing special happens.
        // Shortening then finds the simplest history.
        self.below(100) >= 100 - percent
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The shortest list that still `fails`, within `trials` attempts: first parts
/// are left out, then numbers are reduced.
pub(crate) fn shrink(
    list: Vec<u32>,
    mut trials: u32,
    mut fails: impl FnMut(&[u32]) -> bool,
) -> Vec<u32> {
    let mut best = list;
    let mut part = best.len().div_ceil(2);
    while part > 0 {
        let mut start = 0;
        while start < best.len() {
            if trials == 0 {
                return best;
            }
            trials -= 1;
            let end = (start + part).min(best.len());
            let candidate = [&best[..start], &best[end..]].concat();
            if fails(&candidate) {
                best = candidate;
            } else {
                start = end;
            }
        }
        part /= 2;
    }
    for index in 0..best.len() {
        if trials == 0 {
            break;
        }
        trials -= 1;
        let mut candidate = best.clone();
        candidate[index] = 0;
        if best[index] != 0 && fails(&candidate) {
            best = candidate;
        }
    }
    best
}
