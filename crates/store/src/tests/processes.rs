//! Which processes are dead, and which turns are orphans because of it.

use std::time::Duration;

use minichat_core::turn::{Outcome, TurnErrorCode};
use minichat_core::{ProcessId, Timestamp};

use super::fixture::{NOON, OneTurn};
use super::one_statement::{EVERYBODY, reserve};
use super::{Db, on_both_databases};
use crate::value::{Param, params};
use crate::{OrphanQuery, OrphanRule, Silence, StoreError};

const SECOND: i64 = 1_000_000;
const GAP: Duration = Duration::from_secs(15);

/// The last heartbeat of a dead process is not later than noon, and that of its
/// witness is later than this.
const SILENCE: Silence = Silence {
    since: NOON,
    witnessed_after: NOON.plus_seconds(15),
};

/// A process as its row has it: last heartbeat, and since when it is steady.
type Row = Option<(Timestamp, Timestamp)>;

async fn insert(db: &Db, process: ProcessId, row: Row) {
    let Some((heartbeat_at, steady_since)) = row else {
        return;
    };
    db.sql(
        "INSERT INTO processes (id, started_at, heartbeat_at, steady_since) \
         VALUES ($1, $2, $3, $2)",
        params![process, steady_since, heartbeat_at],
    )
    .await
    .unwrap();
}

/// Whether a turn of a process is an orphan, as the list and as the compare-and-set
/// say, which must agree. Nothing is wrong with its progress.
async fn is_orphan(db: &Db, turn: OneTurn, silence: Option<Silence>) -> bool {
    let rule = OrphanRule {
        stale_at: NOON.plus_micros(-1),
        silence,
    };
    let query = OrphanQuery {
        rule: Some(rule),
        after: None,
        limit: 10,
    };
    let listed = db
        .store
        .read(move |tx| Box::pin(async move { tx.orphan_list(&query).await }));
    let listed: Result<_, StoreError> = listed.await;
    let mut finish = turn.finish(Outcome::Failed(TurnErrorCode::OrphanTimeout));
    finish.orphan = Some(rule);
    let scope = turn.scope();
    let ended = db.store.write(move |tx| {
        Box::pin(async move { Ok(tx.turn_finish(&finish, scope).await?.is_some()) })
    });
    let ended: Result<bool, StoreError> = ended.await;
    let ended = ended.unwrap();
    assert_eq!(listed.unwrap().len(), usize::from(ended));
    ended
}

/// Moves the row of `process` into the past.
async fn age(db: &Db, process: ProcessId, seconds: i64) {
    db.sql(
        "UPDATE processes SET heartbeat_at = heartbeat_at - $2, \
         steady_since = steady_since - $2 WHERE id = $1",
        [process.into(), Param::Micros(seconds * SECOND)],
    )
    .await
    .unwrap();
}

async fn beat(db: &Db, process: ProcessId) {
    db.write(move |tx| tx.process_beat(process, GAP))
        .await
        .unwrap();
}

on_both_databases! {
    /// TURN-69, TURN-60: a silent process is dead if another one was steady meanwhile.
    async fn a_process_is_dead_only_before_a_witness(db: Db) {
        let soon = NOON.plus_seconds(16);
        let later = NOON.plus_micros(1);
        let silent = Some((NOON, NOON.plus_seconds(-60)));
        let steady = Some((soon, NOON));
        let cases: [(&str, Row, Row, bool); 8] = [
            ("silent", silent, steady, true),
            ("gone", None, steady, true),
            ("alive", Some((later, NOON.plus_seconds(-60))), steady, false),
            ("alive again after a pause", Some((soon, soon)), steady, false),
            ("nobody saw it", silent, None, false),
            ("the witness was away itself", silent, Some((soon, later)), false),
            ("the witness is silent too", silent, Some((NOON.plus_seconds(15), NOON)), false),
            ("gone, and nobody saw it", None, None, false),
        ];
        for (name, process, witness, expected) in cases {
            let id = ProcessId::random();
            insert(&db, id, process).await;
            insert(&db, ProcessId::random(), witness).await;
            let nobodys = db.send(NOON);
            nobodys.reserve(&db.store).await.unwrap();
            assert!(!is_orphan(&db, nobodys, Some(SILENCE)).await, "{name}: a turn without a process");
            assert!(nobodys.complete(&db.store).await.unwrap(), "{name}");
            let turn = OneTurn { process: Some(id), ..db.send(NOON) };
            turn.reserve(&db.store).await.unwrap();
            assert!(!is_orphan(&db, turn, None).await, "{name}: nobody is judged");
            assert_eq!(is_orphan(&db, turn, Some(SILENCE)).await, expected, "{name}");
            if !expected {
                assert!(turn.complete(&db.store).await.unwrap(), "{name}");
            }
            db.sql("DELETE FROM processes", []).await.unwrap();
        }
    }

    /// TURN-68: steady without a longer pause than the gap; a clock that goes back is
    /// a pause too.
    async fn a_process_is_steady_until_it_pauses(db: Db) {
        let process = ProcessId::random();
        beat(&db, process).await;
        let steady = "SELECT COUNT(*) FROM processes WHERE steady_since < heartbeat_at";
        let fresh = "SELECT COUNT(*) FROM processes \
            WHERE steady_since = heartbeat_at AND started_at < heartbeat_at";
        assert_eq!(db.count("SELECT COUNT(*) FROM processes WHERE steady_since = started_at", []).await, 1);
        age(&db, process, 10).await;
        beat(&db, process).await;
        assert_eq!((db.count(steady, []).await, db.count(fresh, []).await), (1, 0));
        age(&db, process, 20).await;
        db.sql("UPDATE processes SET started_at = steady_since", []).await.unwrap();
        beat(&db, process).await;
        assert_eq!((db.count(steady, []).await, db.count(fresh, []).await), (0, 1));
        age(&db, process, -3600).await;
        beat(&db, process).await;
        assert_eq!((db.count(steady, []).await, db.count(fresh, []).await), (0, 1));
        // One whose row was removed although it lives begins anew.
        db.write(move |tx| tx.process_remove(process)).await.unwrap();
        assert_eq!(db.count("SELECT COUNT(*) FROM processes", []).await, 0);
        beat(&db, process).await;
        assert_eq!(db.count("SELECT COUNT(*) FROM processes", []).await, 1);
    }

    /// TURN-68
    async fn only_processes_that_died_long_ago_are_pruned(db: Db) {
        let (old, young) = (ProcessId::random(), ProcessId::random());
        beat(&db, old).await;
        beat(&db, young).await;
        age(&db, old, 3601).await;
        age(&db, young, 3599).await;
        db.write(move |tx| tx.processes_prune(Duration::from_hours(1))).await.unwrap();
        let left = "SELECT COUNT(*) FROM processes WHERE id = $1";
        assert_eq!(db.count(left, params![old]).await, 0);
        assert_eq!(db.count(left, params![young]).await, 1);
    }
}

/// TURN-68: however a turn is opened, it names its process.
#[tokio::test]
async fn the_statement_that_reserves_names_the_process() {
    let db = Db::postgres().await;
    let process = ProcessId::random();
    let mut turn = db.send(NOON);
    turn.process = Some(process);
    let cells = db.send(NOON);
    cells.reserve(&db.store).await.unwrap();
    assert!(cells.complete(&db.store).await.unwrap());
    let revision = db.count("SELECT revision FROM chats", []).await;
    let revision = u64::try_from(revision).unwrap();
    assert!(reserve(&db, turn, revision, EVERYBODY).await.unwrap());
    let named = "SELECT COUNT(*) FROM chat_turns WHERE process_id = $1";
    assert_eq!(db.count(named, params![process]).await, 1);
    let unnamed = "SELECT COUNT(*) FROM chat_turns WHERE process_id IS NULL";
    assert_eq!(db.count(unnamed, []).await, 1);
}
