//! Random histories against a reference model: sends, replays, retries, edits,
//! calls of tools, deletions of turns and chats, stops, disconnects, timeouts,
//! drains, crashes, lost answers of the database, failing statements of its
//! writer and watchdogs, interleaved at every transaction (TURN-2 to TURN-64,
//! QUOTA-50 to QUOTA-66, QUOTA-70 to QUOTA-72, CONT-103, CONT-104, K8S-50).
//! The data plane runs in this process on a real database. The test controls
//! time, provider and the order of transactions, so the seed determines the
//! whole history. `MINICHAT_HISTORY_SEED` plays one seed and lists its steps;
//! `MINICHAT_HISTORIES` sets the number of histories.

#![expect(
    clippy::similar_names,
    reason = "a life is a process, and what is live are its running turns"
)]

mod choices;
mod client;
mod facts;
mod history;
mod midnight;
mod model;
mod provider;
mod races;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;
use choices::Choices;
use history::Failure;
use minichat_tests::database::DatabaseKind;
use minichat_tests::plans::{PLANS, Plan};
use world::World;

const SEED: &str = "MINICHAT_HISTORY_SEED";
const COUNT: &str = "MINICHAT_HISTORIES";

/// Crashed processes leave their logs to the next one, so a database becomes
/// slower over time.
const HISTORIES_OF_A_WORLD: u32 = 200;

/// Maximum number of attempts to shorten a failing history.
const TRIALS: u32 = 600;

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse()?)),
        Err(_) => Ok(None),
    }
}

#[test]
fn every_history_on_sqlite_is_as_the_model_says() -> anyhow::Result<()> {
    play_all(SQLITE, number(COUNT)?.unwrap_or(10_000))
}

/// A fifth of the number on SQLite, because every transaction costs round trips.
/// They take two minutes on two cores.
#[test]
fn every_history_on_postgres_is_as_the_model_says() -> anyhow::Result<()> {
    let count = number(COUNT)?.map_or(2_000, |count| count.div_ceil(5));
    play_all(POSTGRES, count)
}

/// QUOTA-82: however badly PostgreSQL plans a statement, it does the same.
#[test]
fn every_history_is_as_the_model_says_under_every_plan() -> anyhow::Result<()> {
    let count = number(COUNT)?.map_or(240, |count| count.div_ceil(40));
    let of_plan = count.div_ceil(PLANS.len() as u64);
    for (plan, first) in PLANS.iter().zip((0..).step_by(usize::try_from(of_plan)?)) {
        let place = Place {
            plan: Some(plan),
            ..POSTGRES
        };
        play(place, seeds(first..first + of_plan)?)
            .with_context(|| format!("planned with {plan:?}"))?;
    }
    Ok(())
}

/// Where histories are played.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: DatabaseKind,
    /// How PostgreSQL plans badly.
    plan: Option<&'static Plan>,
}

const SQLITE: Place = Place {
    kind: DatabaseKind::Sqlite,
    plan: None,
};
const POSTGRES: Place = Place {
    kind: DatabaseKind::Postgres,
    plan: None,
};

fn play_all(place: Place, count: u64) -> anyhow::Result<()> {
    play(place, seeds(0..count)?)
}

/// These, or the one that the environment names.
fn seeds(all: Range<u64>) -> anyhow::Result<Range<u64>> {
    Ok(match number(SEED)? {
        Some(seed) => seed..seed + 1,
        None => all,
    })
}

fn play(place: Place, seeds: Range<u64>) -> anyhow::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let steps = AtomicU64::new(0);
    let player = || -> anyhow::Result<()> {
        let mut world = World::create(place)?;
        for played in 1_u32.. {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            if played % HISTORIES_OF_A_WORLD == 0 {
                std::mem::replace(&mut world, World::create(place)?).remove()?;
            }
            match history::play(&mut world, Choices::seeded(seed)) {
                Ok(played) => steps.fetch_add(played, Ordering::Relaxed),
                Err(failure) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    return Err(report(place, seed, *failure));
                }
            };
        }
        world.remove()
    };
    let players = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..players).map(|_| scope.spawn(player)).collect();
        handles.into_iter().try_for_each(|handle| {
            let panicked = |_| Err(anyhow::anyhow!("a player panicked"));
            handle.join().unwrap_or_else(panicked)
        })
    })?;
    let (count, steps) = (seeds.end - seeds.start, steps.load(Ordering::Relaxed));
    // Guards against a fault in the test that makes histories empty.
    assert!(steps > 10 * count, "{count} histories had {steps} steps");
    Ok(())
}

/// The failure of `seed`, with the shortest history that fails too.
fn report(place: Place, seed: u64, failure: Failure) -> anyhow::Error {
    let first = failure.what.clone();
    let mut shortest = failure;
    let list = shortest.choices.clone();
    let mut world = None;
    choices::shrink(list, TRIALS, |list| {
        // The remains of a failed history would make the next one fail.
        let mut fresh = match world.take() {
            Some(world) => world,
            None => match World::create(place) {
                Ok(fresh) => fresh,
                Err(_) => return false,
            },
        };
        match history::play(&mut fresh, Choices::given(list)) {
            Ok(_) => {
                world = Some(fresh);
                false
            }
            Err(failure) => {
                shortest = *failure;
                true
            }
        }
    });
    anyhow::anyhow!(
        "seed {seed} on {:?} fails: {}\n\nshortened:\n{}\n\n{}\n\nplay it again: \
         {SEED}={seed} cargo xtask test -p minichat-tests --test histories",
        place.kind,
        first.lines().next().unwrap_or_default(),
        shortest.steps.join("\n"),
        shortest.what
    )
}
