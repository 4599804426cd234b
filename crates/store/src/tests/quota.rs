use futures_util::future::join_all;
use minichat_core::quota::{Bucket, Period};
use minichat_core::turn::Outcome;
use minichat_core::{ChatId, Timestamp};

use super::fixture::{NOON, RESERVE, SendError};
use super::{Db, on_both_databases};
use crate::{PolicySnapshot, QuotaDay, SettlementFault, StoreError};

const ALL: [(Period, Bucket); 4] = [
    (Period::Monthly, Bucket::Total),
    (Period::Daily, Bucket::Total),
    (Period::Monthly, Bucket::TierPremium),
    (Period::Daily, Bucket::TierPremium),
];

on_both_databases! {
    /// QUOTA-78, QUOTA-80: 64 parallel reserves with room for 10 allow exactly 10.
    async fn parallel_reserves_never_overspend(db: Db) {
        let mut sends = Vec::new();
        for _ in 0..64 {
            let mut send = db.send(NOON);
            send.chat = ChatId::random();
            send.limit = 10 * RESERVE + RESERVE / 2;
            sends.push(send);
        }
        join_all(sends.iter().map(|send| db.insert_chat(db.user, send.chat, NOON))).await;
        let answers = join_all(sends.iter().map(|send| send.reserve(&db.store))).await;
        let allowed = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(allowed, 10);
        let refused = |answer: &Result<(), SendError>| matches!(answer, Err(SendError::QuotaExceeded));
        assert_eq!(answers.iter().filter(|answer| refused(answer)).count(), 54);
        let cells = db.cells(sends[0].scope()).await;
        for period in [Period::Daily, Period::Monthly] {
            assert_eq!(cells.used_credits_micro(period, Bucket::Total), 10 * RESERVE);
        }
    }

    /// QUOTA-53, QUOTA-62, PLAT-12: a premium turn has four cells; only the
    /// total ones have telemetry.
    async fn a_premium_turn_settles_four_cells(db: Db) {
        let mut send = db.send(NOON);
        send.premium = true;
        send.reserve(&db.store).await.unwrap();
        let cells = db.cells(send.scope()).await;
        for (period, bucket) in ALL {
            let cell = cells.get(period, bucket).unwrap();
            assert_eq!((cell.reserved_credits_micro, cell.spent_credits_micro), (RESERVE, 0));
        }
        assert!(send.complete(&db.store).await.unwrap());
        let cells = db.cells(send.scope()).await;
        assert_eq!(cells.iter().count(), 4);
        for (period, bucket) in ALL {
            let cell = cells.get(period, bucket).unwrap();
            assert_eq!((cell.reserved_credits_micro, cell.spent_credits_micro), (0, 600));
            assert_eq!(cell.calls, 1);
            let telemetry = [cell.input_tokens, cell.output_tokens, cell.web_search_calls];
            let expected = if bucket == Bucket::Total { [50, 2, 1] } else { [0, 0, 0] };
            assert_eq!(telemetry, expected);
        }
    }

    /// QUOTA-78: a standard turn makes no premium cells.
    async fn a_standard_turn_touches_two_cells(db: Db) {
        let send = db.send(NOON);
        send.reserve(&db.store).await.unwrap();
        assert!(send.complete(&db.store).await.unwrap());
        let cells = db.cells(send.scope()).await;
        assert_eq!(cells.iter().count(), 2);
        assert!(cells.get(Period::Daily, Bucket::TierPremium).is_none());
    }

    /// QUOTA-54: a reserve made before midnight is settled on that day.
    async fn settlement_books_on_the_day_of_the_reserve(db: Db) {
        let late: Timestamp = "2026-03-31T23:59:59Z".parse().unwrap();
        let send = db.send(late);
        send.reserve(&db.store).await.unwrap();
        assert!(send.complete(&db.store).await.unwrap());
        let cells = db.cells(send.scope()).await;
        assert_eq!(cells.used_credits_micro(Period::Daily, Bucket::Total), 600);
        let next = QuotaDay { day: late.plus_seconds(2).date(), ..send.scope() };
        assert_eq!(db.cells(next).await.iter().count(), 0);
    }

    /// QUOTA-65: a missing reserve does not block the settlement and is
    /// reported.
    async fn settlement_without_its_reserve_clamps_and_reports(db: Db) {
        let mut send = db.send(NOON);
        send.premium = true;
        send.reserve(&db.store).await.unwrap();
        db.sql("DELETE FROM quota_usage WHERE bucket = 'tier:premium'", []).await.unwrap();
        db.sql("UPDATE quota_usage SET reserved_credits_micro = 1", []).await.unwrap();
        let faults = db.store.write(move |tx| Box::pin(async move {
            let finish = send.finish(Outcome::Cancelled);
            let finished = tx.turn_finish(&finish, send.scope()).await?.unwrap();
            tx.quota_settle(&send.settlement(finished.now), &finished.cells)
        })).await;
        let faults = faults.map_err(|error: StoreError| error).unwrap();
        let held = |bucket| u64::from(bucket == Bucket::Total);
        let expected = ALL.map(|(period, bucket)| SettlementFault {
            period, bucket, reserved_credits_micro: held(bucket),
        });
        assert_eq!(faults, expected);
        let cells = db.cells(send.scope()).await;
        for (period, bucket) in ALL {
            let cell = cells.get(period, bucket).unwrap();
            assert_eq!((cell.reserved_credits_micro, cell.spent_credits_micro), (0, 600));
        }
    }

    /// QUOTA-30, PLAT-14: a version is stored once; the same version with
    /// another hash is refused.
    async fn a_policy_version_never_changes(db: Db) {
        let tenant = db.tenant;
        let document = |policy_version, hash: &str| PolicySnapshot {
            policy_version,
            content_hash: hash.to_owned(),
            snapshot: r#"{"a":1}"#.to_owned(),
        };
        for (snapshot, fits) in [
            (document(2, "x"), true),
            (document(2, "x"), true),
            (document(2, "y"), false),
            (document(1, "z"), true),
        ] {
            let stored = db.store.write(move |tx| {
                let snapshot = snapshot.clone();
                Box::pin(async move { tx.policy_snapshot_store(tenant, &snapshot).await })
            }).await;
            assert_eq!(stored.is_ok(), fits, "{stored:?}");
            if !fits {
                assert!(matches!(stored, Err(StoreError::PolicyHashMismatch { version: 2 })));
            }
        }
        let newest = db.store
            .read(move |tx| Box::pin(async move { tx.policy_snapshot_newest(tenant).await }))
            .await;
        let newest = newest.map_err(|error: StoreError| error).unwrap().unwrap();
        assert_eq!((newest.policy_version, newest.content_hash.as_str()), (2, "x"));
    }
}
