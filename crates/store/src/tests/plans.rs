//! Which rows statements of the clean-up read: none that only become more.

use crate::StoreError;
use crate::cleanup::{PLANNED_DELETED, PLANNED_DRIFT, PLANNED_DUE, PLANNED_LABELS};
use crate::purge::PLANNED as PLANNED_PURGE;
use crate::value::Row;

use super::Db;

/// 20,000 deleted chats of a year, and as many living ones; each with a file that needs
/// nothing, a vector store, and a turn with its two messages.
const ROWS: &[&str] = &[
    "CREATE TABLE numbers (n BIGINT)",
    "INSERT INTO numbers SELECT n FROM generate_series(1, 40000) n",
    "INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at, deleted_at) \
     SELECT CAST(lpad(to_hex(n), 32, '0') AS UUID), CAST(lpad('1', 32, '0') AS UUID), \
     CAST(lpad(to_hex(n % 50), 32, '0') AS UUID), 'm', TIMESTAMPTZ '2025-01-01', \
     TIMESTAMPTZ '2025-01-01', CASE WHEN n <= 20000 \
     THEN TIMESTAMPTZ '2026-01-01' - n * INTERVAL '26 minutes' END FROM numbers",
    "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
     content_type, size_bytes, storage_backend, provider_file_id, status, attachment_kind, \
     for_file_search, cleanup_status, created_at, updated_at) \
     SELECT id, tenant_id, id, user_id, 'f', 't', 1, 'main', 'file-1', 'ready', 'document', \
     TRUE, CASE WHEN deleted_at IS NOT NULL THEN 'done' END, created_at, created_at FROM chats",
    "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
     created_at) SELECT id, tenant_id, id, 'vs-1', 'main', created_at FROM chats \
     WHERE deleted_at IS NULL",
    "INSERT INTO messages (id, tenant_id, chat_id, role, created_at) \
     SELECT id, tenant_id, id, 'assistant', created_at FROM chats",
    "INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, state, \
     assistant_message_id, started_at, completed_at, updated_at) SELECT id, tenant_id, id, id, \
     'user', 'completed', id, created_at, created_at, created_at FROM chats",
    "ANALYZE",
];

async fn plan(
    db: &Db,
    sql: String,
    line: fn(&Row<'_>) -> Result<String, StoreError>,
) -> Vec<String> {
    let plan = db.store.write(move |tx| {
        let sql = sql.clone();
        Box::pin(async move { tx.query_page(&sql, false, &[], line).await })
    });
    let plan: Result<Vec<String>, StoreError> = plan.await;
    plan.unwrap()
}

/// How often the plan reads a row, on PostgreSQL: those that it throws away as well.
async fn rows_read(db: &Db, sql: &str) -> f64 {
    let number = |line: &str, name: &str| -> f64 {
        let rest = line.split_once(name).map_or("0", |(_, rest)| rest);
        let digits = rest.split([' ', ')']).next().unwrap_or_default();
        digits.parse().unwrap_or_default()
    };
    let sql = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}");
    let lines = plan(db, sql, crate::tx::only_column).await;
    let mut loops = 1.0;
    let read = lines.iter().map(|line| {
        if line.contains("actual rows=") {
            loops = number(line, "loops=").max(1.0);
        }
        let of_scan = if line.contains(" on ") {
            number(line, "actual rows=")
        } else {
            0.0
        };
        (of_scan + number(line, "Rows Removed by Filter: ")) * loops
    });
    let read: f64 = read.sum();
    eprintln!("{read} rows: {lines:#?}");
    read
}

/// Reads whole tables of `SQLite`, or whole indexes that have other rows as well than
/// those that are wanted.
async fn scans(db: &Db, sql: &str) -> Vec<String> {
    let sql = format!("EXPLAIN QUERY PLAN {sql}");
    let lines = plan(db, sql, |row| {
        let _: [i64; 3] = [row.take()?, row.take()?, row.take()?];
        row.take()
    });
    let is_scan =
        |line: &String| line.starts_with("SCAN") && !line.contains("attachments_left_behind");
    lines.await.into_iter().filter(is_scan).collect()
}

/// The statement with values for its parameters: a number of rows and two instants.
fn with_values(sql: &str, from: &str, until: &str) -> String {
    sql.replace("$1", "100")
        .replace("$2", from)
        .replace("$3", until)
}

/// CONT-174: what is repaired is found without what need not be.
#[tokio::test]
async fn repairs_of_the_clean_up_read_no_whole_table() {
    let db = Db::sqlite().await;
    for (name, (_, sql)) in PLANNED_DRIFT {
        assert_eq!(
            scans(&db, &with_values(sql, "5", "6")).await,
            [""; 0],
            "{name}"
        );
    }
    for (name, sql) in PLANNED_DELETED {
        assert_eq!(
            scans(&db, &with_values(sql, "5", "6")).await,
            [""; 0],
            "{name}"
        );
    }
}

/// CONT-171: what is due of a tenant is found by an index.
#[tokio::test]
async fn what_is_due_is_found_by_an_index() {
    let db = Db::sqlite().await;
    for (name, sql) in PLANNED_DUE {
        let sql = of_tenant(sql, "'t'", "5");
        assert_eq!(scans(&db, &sql).await, [""; 0], "{name}");
    }
    for (name, sql) in PLANNED_LABELS {
        let scans = scans(&db, &sql.replace("$1", "5")).await;
        assert!(
            scans.iter().all(|scan| scan.contains("_due")),
            "{name}: {scans:#?}"
        );
    }
}

/// CONT-171: the same on PostgreSQL, among 40,000 files and 5,000 that wait for others.
#[tokio::test]
async fn what_is_due_of_others_is_not_read() {
    let db = Db::postgres().await;
    for sql in ROWS {
        db.sql(sql, []).await.unwrap();
    }
    for sql in [
        "UPDATE attachments SET cleanup_status = 'pending', tenant_id = \
         CASE WHEN id <= CAST(lpad(to_hex(20), 32, '0') AS UUID) \
         THEN CAST(lpad('2', 32, '0') AS UUID) ELSE CAST(lpad('3', 32, '0') AS UUID) END \
         WHERE id <= CAST(lpad(to_hex(5000), 32, '0') AS UUID)",
        "UPDATE chat_vector_stores SET cleanup_due_at = created_at, tenant_id = \
         CAST(lpad('2', 32, '0') AS UUID) \
         WHERE id <= CAST(lpad(to_hex(20020), 32, '0') AS UUID)",
        "ANALYZE",
    ] {
        db.sql(sql, []).await.unwrap();
    }
    for (name, sql) in PLANNED_DUE {
        let tenant = "CAST(lpad('2', 32, '0') AS UUID)";
        let sql = of_tenant(sql, tenant, "TIMESTAMPTZ '2026-01-01'");
        let read = rows_read(&db, &sql).await;
        assert!((1.0..300.0).contains(&read), "{name}: {read}");
    }
    for (name, sql) in PLANNED_LABELS {
        let sql = sql.replace("$1", "TIMESTAMPTZ '2026-01-01'");
        let read = rows_read(&db, &sql).await;
        assert!((1.0..6000.0).contains(&read), "{name}: {read}");
    }
}

/// The statement for a tenant's rows that are due by `now`.
fn of_tenant(sql: &str, tenant: &str, now: &str) -> String {
    let start = now.replace("2026", "1970").replace('5', "1");
    sql.replace("$1", tenant)
        .replace("$2", now)
        .replace("$3", now)
        .replace("$4", &start)
        .replace("$5", "'00000000-0000-0000-0000-000000000000'")
        .replace("$6", "32")
        .replace("$7", "'main'")
}

/// CONT-174: the same on PostgreSQL, among 40,000 chats.
#[tokio::test]
async fn repairs_of_the_clean_up_read_few_rows() {
    let db = Db::postgres().await;
    for sql in ROWS {
        db.sql(sql, []).await.unwrap();
    }
    let (from, until) = ("TIMESTAMPTZ '2025-12-31'", "TIMESTAMPTZ '2026-01-01'");
    for (name, (sql, _)) in PLANNED_DRIFT {
        let read = rows_read(&db, &with_values(sql, from, until)).await;
        assert!(read < 10.0, "{name}: {read}");
    }
    for (name, sql) in PLANNED_DELETED {
        let sql = if name == "page" {
            sql.replace("$1", from).replace("$2", "500")
        } else {
            with_values(sql, from, until)
        };
        let read = rows_read(&db, &sql).await;
        // 55 chats, and a file of each.
        assert!((1.0..200.0).contains(&read), "{name}: {read}");
    }
}

/// PLAT-21: a purge reads the chats that were deleted, and rows of one chat. So do the
/// foreign keys.
#[tokio::test]
async fn a_purge_reads_no_whole_table() {
    let db = Db::sqlite().await;
    for (name, sql) in PLANNED_PURGE {
        let sql = with_values(sql, "5", "6").replace("$4", "50");
        assert_eq!(scans(&db, &sql).await, [""; 0], "{name}");
    }
}

/// PLAT-21: the same on PostgreSQL, among 40,000 chats.
#[tokio::test]
async fn a_purge_reads_few_rows() {
    let db = Db::postgres().await;
    for sql in ROWS {
        db.sql(sql, []).await.unwrap();
    }
    let drop_stores = "DELETE FROM chat_vector_stores";
    db.sql(drop_stores, []).await.unwrap();
    let tenant = "CAST(lpad('1', 32, '0') AS UUID)";
    for (place, (name, sql)) in PLANNED_PURGE.iter().enumerate() {
        // Of another chat, because the statements are executed.
        let id = format!("CAST(lpad(to_hex({}), 32, '0') AS UUID)", place + 7);
        let sql = if *name == "due" {
            let (by, from) = ("TIMESTAMPTZ '2026-01-01'", "TIMESTAMPTZ '1970-01-01'");
            let sql = sql.replace("$1", by).replace("$2", from);
            sql.replace("$3", &id).replace("$4", "50")
        } else {
            let sql = sql.replace("$1", tenant).replace("$2", &id);
            sql.replace("$3", "100")
        };
        let read = rows_read(&db, &sql).await;
        // 50 chats that are due, and what shows that each is.
        let most = if *name == "due" { 300.0 } else { 10.0 };
        assert!((1.0..most).contains(&read), "{name}: {read}");
    }
}
