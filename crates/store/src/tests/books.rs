use std::time::Duration;

use minichat_core::{Date, Timestamp};

use super::fixture::{NOON, RESERVE};
use super::{Db, on_both_databases};
use crate::{
    BookPeriod, BookedCell, BookedTurns, DatabaseSettings, Snapshot, SnapshotError, StoreError,
};

fn day(text: &str) -> Date {
    text.parse().unwrap()
}

fn month(db: &Db, first: &str, end: &str) -> BookPeriod {
    BookPeriod {
        tenant_id: db.tenant,
        first: day(first),
        end: day(end),
    }
}

async fn turns(
    snapshot: &mut Snapshot,
    period: &BookPeriod,
) -> (Vec<BookedTurns>, Vec<BookedTurns>) {
    let (mut ended, mut running) = (Vec::new(), Vec::new());
    snapshot
        .book_turns(period, |it| ended.push(it))
        .await
        .unwrap();
    snapshot
        .book_running(period, |it| running.push(it))
        .await
        .unwrap();
    (ended, running)
}

on_both_databases! {
    /// QUOTA-54: turns are added up by the day of their reserve, those that run apart.
    async fn turns_are_added_up_by_the_day_of_their_reserve(db: Db) {
        let late: Timestamp = "2026-03-31T23:59:59Z".parse().unwrap();
        for at in [NOON, NOON.plus_seconds(60), late] {
            let send = db.send(at);
            send.reserve(&db.store).await.unwrap();
            assert!(send.complete(&db.store).await.unwrap());
        }
        db.send(NOON.plus_seconds(120)).reserve(&db.store).await.unwrap();
        let mut snapshot = Snapshot::open(&db.settings).await.unwrap();
        let march = month(&db, "2026-03-01", "2026-04-01");
        let (mut ended, running) = turns(&mut snapshot, &march).await;
        ended.sort_by_key(|it| it.day);
        let expected = |day_text, turns, settled, credits_micro| BookedTurns {
            user_id: Some(db.user),
            day: day(day_text),
            model: "large".to_owned(),
            policy_version: 7,
            turns,
            settled,
            credits_micro,
        };
        assert_eq!(
            ended,
            [expected("2026-03-10", 2, 2, 1_200), expected("2026-03-31", 1, 1, 600)]
        );
        assert_eq!(running, [expected("2026-03-10", 1, 0, RESERVE)]);
        let mut cells = Vec::new();
        snapshot.book_cells(&march, |cell| cells.push(cell)).await.unwrap();
        let of = |period: &str, start: &str| -> &BookedCell {
            let found = cells.iter().find(|it| it.period == period && it.start == day(start));
            found.unwrap()
        };
        assert_eq!(of("daily", "2026-03-10").spent_credits_micro, 1_200);
        assert_eq!(of("daily", "2026-03-31").calls, 1);
        let all = of("monthly", "2026-03-01");
        assert_eq!((all.spent_credits_micro, all.calls), (1_800, 3));
        assert_eq!(all.reserved_credits_micro, i64::try_from(RESERVE).unwrap());
        let april = month(&db, "2026-04-01", "2026-05-01");
        assert_eq!(turns(&mut snapshot, &april).await, (Vec::new(), Vec::new()));
    }

    /// What is committed later is not seen, and nobody waits for a snapshot.
    async fn a_snapshot_stands_still(db: Db) {
        let march = month(&db, "2026-03-01", "2026-04-01");
        let mut snapshot = Snapshot::open(&db.settings).await.unwrap();
        assert_eq!(turns(&mut snapshot, &march).await.0, []);
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        assert!(send.complete(&db.store).await.unwrap());
        assert_eq!(turns(&mut snapshot, &march).await.0, []);
        drop(snapshot);
        let mut snapshot = Snapshot::open(&db.settings).await.unwrap();
        assert_eq!(turns(&mut snapshot, &march).await.0.len(), 1);
    }

    /// PLAT-1
    async fn a_schema_of_another_release_is_refused(db: Db) {
        db.sql("INSERT INTO schema_migrations (version) VALUES (999)", []).await.unwrap();
        let opened = Snapshot::open(&db.settings).await;
        let newer = |it: &SnapshotError| {
            matches!(it, SnapshotError::Store(StoreError::NewerSchema { found: 999, .. }))
        };
        assert!(opened.is_err_and(|error| newer(&error)));
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("none.db");
    let settings = DatabaseSettings::new(format!("sqlite://{}", file.display()));
    assert!(matches!(
        Snapshot::open(&settings).await,
        Err(SnapshotError::File(_))
    ));
    assert!(!file.exists());
}

/// A server that accepts a connection and says nothing is not waited for without end.
#[tokio::test]
async fn a_snapshot_of_a_silent_server_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let settings = DatabaseSettings {
        connect_timeout: Duration::from_millis(100),
        ..DatabaseSettings::new(format!("postgres://x@{address}/x?sslmode=disable"))
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), Snapshot::open(&settings)).await;
    let opened = opened.expect("the command waits for a server that says nothing");
    assert!(matches!(
        opened,
        Err(SnapshotError::Store(StoreError::Connection(_)))
    ));
}
