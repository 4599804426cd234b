//! How processes take turns at a partition. One that always has something to deliver
//! would claim the partition again as soon as it has released it, and leave tenants
//! that only another process serves to chance (PLAT-33).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::wake::Place;

/// How long a process may work on a partition, in one pass or in several with shorter
/// breaks than [`BREAK`].
pub(super) const TURN: Duration = Duration::from_secs(1);
/// How long it leaves the partition to others then: longer than they wait between two
/// claims.
pub(super) const BREAK: Duration = Duration::from_millis(75);

/// The turns of this process, by partition.
pub(super) struct Turns {
    turns: HashMap<Place, Turn>,
    pause: Duration,
}

struct Turn {
    began: Instant,
    ended: Instant,
}

impl Turns {
    /// With this long a break: none if there is only one process.
    pub(super) fn with_break(pause: Duration) -> Self {
        Self {
            turns: HashMap::new(),
            pause,
        }
    }

    /// When the partition may be claimed; `None`: at any time.
    pub(super) fn free_at(&self, place: Place) -> Option<Instant> {
        let turn = self.turns.get(&place)?;
        let is_over = turn.ended.saturating_duration_since(turn.began) >= TURN;
        is_over.then(|| turn.ended + self.pause)
    }

    /// A pass begins.
    pub(super) fn begin(&mut self, place: Place, now: Instant) {
        let turn = self.turns.entry(place);
        let turn = turn.or_insert(Turn {
            began: now,
            ended: now,
        });
        if now.saturating_duration_since(turn.ended) >= self.pause {
            turn.began = now;
        }
        turn.ended = now;
    }

    /// A pass has ended.
    pub(super) fn end(&mut self, place: Place, now: Instant) {
        if let Some(turn) = self.turns.get_mut(&place) {
            turn.ended = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use minichat_config::process::OutboxKind;

    use super::*;

    const PLACE: Place = (OutboxKind::Usage, 0);

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// PLAT-33
    #[test]
    fn a_turn_of_several_passes_ends_with_a_break() {
        let start = Instant::now();
        let mut turns = Turns::with_break(BREAK);
        assert_eq!(turns.free_at(PLACE), None);
        for begins in [0, 400, 800] {
            turns.begin(PLACE, after(start, begins));
            turns.end(PLACE, after(start, begins + 390));
        }
        let free = after(start, 1190) + BREAK;
        assert_eq!(turns.free_at(PLACE), Some(free));
        turns.begin(PLACE, free);
        turns.end(PLACE, free + Duration::from_millis(500));
        assert_eq!(turns.free_at(PLACE), None, "a new turn");
    }

    /// PLAT-33
    #[test]
    fn passes_with_breaks_between_are_turns_of_their_own() {
        let start = Instant::now();
        let mut turns = Turns::with_break(BREAK);
        for begins in [0, 500, 1000, 1500] {
            turns.begin(PLACE, after(start, begins));
            turns.end(PLACE, after(start, begins + 400));
            assert_eq!(turns.free_at(PLACE), None);
        }
    }
}
