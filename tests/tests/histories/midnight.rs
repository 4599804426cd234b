//! Turns around the end of a month: their periods and their order.

use anyhow::{Context as _, ensure};
use uuid::Uuid;

use crate::facts::{Cell, Facts};
use crate::model::rules::{daily, monthly};
use crate::model::{LAST_MINUTES, SECOND};
use crate::races::Scene;
use crate::world::{Process, World};
use crate::{POSTGRES, SQLITE};

/// 2026-02-28T23:59:59.9Z.
const JUST_BEFORE: i64 = LAST_MINUTES + 120 * SECOND - SECOND / 10;

/// TURN-6; check 10 of chapter 02: a turn that begins before midnight and ends
/// after it is reserved and charged in the day and month of its beginning.
/// Turns that begin at one instant of the clock are ordered by their
/// beginnings.
#[test]
fn a_turn_is_charged_to_the_day_and_the_month_of_its_beginning() -> anyhow::Result<()> {
    for place in [SQLITE, POSTGRES] {
        let mut world = World::create(place)?;
        let process = Process::spawn()?;
        process.run(cross_midnight(&mut world, &process))??;
        drop(process);
        world.remove()?;
    }
    Ok(())
}

async fn cross_midnight(world: &mut World, process: &Process) -> anyhow::Result<()> {
    let behind = world.window.end_of_queues()?;
    let scene = Scene::set(world, process, JUST_BEFORE).await?;
    let look = |world: &World| world.window.look(scene.who, behind);
    scene.life.provider.refuse_connections(false);

    // At the same instant as the first turn of the scene.
    let before = open(&scene, 0).await?;
    let facts = look(world)?;
    let reserved = started(&facts, "2026-02-28")?;
    ensure!(reserved == [JUST_BEFORE, JUST_BEFORE + 1], "{reserved:?}");
    let cell = facts.cells[&daily("2026-02-28")];
    ensure!(cell.reserved > 0, "{cell:?}");
    ensure!(facts.cells[&monthly("2026-02-28")] == cell, "{facts:?}");

    world.set_time(JUST_BEFORE + SECOND / 5)?;
    complete(&scene, 0).await;
    ensure!(before.seen().has_ended, "{:?}", before.seen());
    let after = open(&scene, 1).await?;
    complete(&scene, 1).await;
    ensure!(after.seen().has_ended, "{:?}", after.seen());

    let facts = look(world)?;
    started(&facts, "2026-03-01")?;
    // The first turn of the scene never reached the provider.
    for (day, calls) in [("2026-02-28", 2), ("2026-03-01", 1)] {
        let charged = Cell {
            reserved: 0,
            spent: 60 + 20 * 3,
            calls,
            input_tokens: 60,
            output_tokens: 20,
            ..Cell::default()
        };
        for key in [daily(day), monthly(day)] {
            ensure!(facts.cells.get(&key) == Some(&charged), "{facts:?}");
        }
    }
    check_order(&facts)
}

/// Sends a message and waits for the beginning of its answer.
async fn open(scene: &Scene, call: usize) -> anyhow::Result<crate::client::Client> {
    let client = scene.send(Uuid::new_v4());
    scene.flush().await;
    let calls = scene.life.provider.calls();
    ensure!(calls.len() == call + 1, "{calls:?}");
    scene.life.provider.stream(call);
    scene.flush().await;
    Ok(client)
}

async fn complete(scene: &Scene, call: usize) {
    scene.life.provider.delta(call, "hello");
    scene.life.provider.complete(call, Some((60, 20)), None);
    scene.flush().await;
}

/// When the turns of `day` began, in order.
fn started(facts: &Facts, day: &str) -> anyhow::Result<Vec<i64>> {
    let turns = facts.turns.values().filter(|turn| turn.day == day);
    let mut started: Vec<_> = turns.map(|turn| turn.started_at).collect();
    started.sort_unstable();
    ensure!(!started.is_empty(), "no turn of {day}: {facts:?}");
    Ok(started)
}

/// Every message is directly followed by its answer, in the order of the turns.
fn check_order(facts: &Facts) -> anyhow::Result<()> {
    let mut turns: Vec<_> = facts.turns.values().collect();
    turns.sort_by_key(|turn| turn.started_at);
    let mut messages: Vec<_> = facts.messages.values().collect();
    messages.sort_by_key(|message| message.created_at);
    let instants = messages.windows(2);
    for pair in instants {
        ensure!(pair[0].created_at < pair[1].created_at, "{pair:?}");
    }
    let order: Vec<_> = messages.iter().map(|message| message.request).collect();
    let [failed, second, third] = turns[..] else {
        anyhow::bail!("{} turns", turns.len());
    };
    let expected = [failed, second, second, third, third].map(|turn| turn.request);
    ensure!(order == expected, "{messages:?}");
    let newest = messages.last().context("no message")?;
    ensure!(newest.role == "assistant", "{newest:?}");
    Ok(())
}
