//! The tables of both databases, column by column, against those of the
//! specification.

use std::collections::BTreeSet;

use super::Db;
use crate::StoreError;
use crate::tx::only_column;

const CHAPTER: &str = include_str!("../../../../docs/specification/05-platform.md");

/// Every table but the one of the migrations.
const SQLITE: &str = "SELECT t.name || '.' || c.name || ' ' || c.type \
    || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN ' NOT NULL' ELSE '' END \
    || CASE WHEN instr(t.sql, 'CHECK (' || c.name || ' >= 0)') > 0 THEN ' CHECK' ELSE '' END \
    FROM sqlite_schema t, pragma_table_info(t.name) c \
    WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'schema_migrations'";
const POSTGRES: &str = "SELECT CAST(t.relname || '.' || c.attname || ' ' \
    || format_type(c.atttypid, c.atttypmod) \
    || CASE WHEN c.attnotnull THEN ' NOT NULL' ELSE '' END \
    || CASE WHEN EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = t.oid \
       AND pg_get_constraintdef(k.oid) = 'CHECK ((' || c.attname || ' >= 0))') \
       THEN ' CHECK' ELSE '' END AS TEXT) \
    FROM pg_class t JOIN pg_attribute c ON c.attrelid = t.oid \
    WHERE t.relnamespace = CAST('public' AS regnamespace) AND t.relkind = 'r' \
    AND c.attnum > 0 AND NOT c.attisdropped AND t.relname <> 'schema_migrations'";

/// The columns of the chapter as the queries above answer them.
fn specified(type_name: fn(&str) -> String) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    let mut table = None;
    for line in CHAPTER.lines() {
        if let Some((_, named)) = line.split_once("Table `") {
            table = named.split('`').next();
        } else if line.starts_with("**") || line.starts_with("- **") || line.starts_with('#') {
            table = None;
        }
        let (Some(table), Some(row)) = (table, line.strip_prefix("| ")) else {
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        let [names, type_and_null, rule] = cells.as_slice() else {
            panic!("{line}");
        };
        if *names == "Column" {
            continue;
        }
        let (short, null) = match type_and_null.strip_suffix(" NN") {
            Some(short) => (short, " NOT NULL"),
            None => (*type_and_null, ""),
        };
        let check = if rule.contains("CHECK ≥ 0") {
            " CHECK"
        } else {
            ""
        };
        for name in names.split(", ") {
            columns.insert(format!("{table}.{name} {}{null}{check}", type_name(short)));
        }
    }
    columns
}

/// Section 1.1.
fn sqlite_type(short: &str) -> String {
    let name = match short {
        "ts" | "bool" | "i32" | "i64" => "INTEGER",
        "bytes" => "BLOB",
        _ => "TEXT",
    };
    name.to_owned()
}

/// Section 1.1.
fn postgres_type(short: &str) -> String {
    let name = match short {
        "ts" => "timestamp with time zone",
        "bool" => "boolean",
        "i32" => "integer",
        "i64" => "bigint",
        "bytes" => "bytea",
        "json" => "jsonb",
        "uuid" | "date" | "text" => short,
        short => return short.replace("str", "character varying"),
    };
    name.to_owned()
}

async fn found(db: Db, sql: &'static str) -> BTreeSet<String> {
    let rows: Result<Vec<String>, StoreError> = db
        .store
        .read(move |tx| Box::pin(async move { tx.query(sql, &[], only_column).await }))
        .await;
    rows.unwrap().into_iter().collect()
}

fn check(found: &BTreeSet<String>, specified: &BTreeSet<String>) {
    let missing: Vec<_> = specified.difference(found).collect();
    let unknown: Vec<_> = found.difference(specified).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing: {missing:#?}, not in the chapter: {unknown:#?}"
    );
    assert!(found.len() > 150, "{}", found.len());
}

/// PLAT-1, PLAT-2, PLAT-5 to PLAT-15, PLAT-38, QUOTA-1, QUOTA-77
#[tokio::test]
async fn a_file_has_the_columns_of_the_specification() {
    check(
        &found(Db::sqlite().await, SQLITE).await,
        &specified(sqlite_type),
    );
}

/// PLAT-1, PLAT-2, PLAT-5 to PLAT-15, PLAT-38, QUOTA-1, QUOTA-77
#[tokio::test]
async fn a_server_has_the_columns_of_the_specification() {
    check(
        &found(Db::postgres().await, POSTGRES).await,
        &specified(postgres_type),
    );
}
