//! Whether the books of a database balance: what was reserved, charged and reported.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use minichat_core::TenantId;
use minichat_dataplane::books::{Books, TenantRef};
use minichat_store::DatabaseSettings;
use uuid::Uuid;

use crate::database::Database;

const USAGE: &str = "mini-chat.usage_snapshot";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const RESERVED: &str = "SELECT count(*) FROM quota_usage WHERE reserved_credits_micro <> 0";
const SPENT: &str = "SELECT user_id, bucket, period_type, \
    CAST(sum(spent_credits_micro) AS BIGINT), CAST(sum(calls) AS BIGINT) \
    FROM quota_usage GROUP BY user_id, bucket, period_type";

/// User, bucket and period.
type Cell = [String; 3];

/// Fails unless every turn has ended and has one usage event, no reserve is left, and
/// the credits and calls of each user are the sum of these events. The premium model
/// is called `prem`.
pub async fn check_books(database: &Database) -> anyhow::Result<()> {
    ensure!(database.number(RUNNING).await? == 0, "a turn is open");
    ensure!(database.number(RESERVED).await? == 0, "a reserve is left");
    let events = database.payloads(USAGE).await?;
    let turns = database.number("SELECT count(*) FROM chat_turns").await?;
    ensure!(
        i64::try_from(events.len())? == turns,
        "{} usage events of {turns} turns",
        events.len()
    );
    let mut settled = BTreeMap::new();
    for event in &events {
        let user = event["user_id"].as_str().context("no user")?;
        let credits = event["committed_credits_micro"].as_i64();
        let credits = credits.context("no credits")?;
        let premium = (event["effective_model"] == "prem").then_some("tier:premium");
        for bucket in ["total"].into_iter().chain(premium) {
            for period in ["daily", "monthly"] {
                let cell: Cell = [user, bucket, period].map(str::to_owned);
                let (spent, calls) = settled.entry(cell).or_insert((0, 0));
                *spent += credits;
                *calls += 1;
            }
        }
    }
    let stored = stored(database).await?;
    ensure!(stored == settled, "stored {stored:?}, settled {settled:?}");
    check_balanced(database).await
}

/// Fails unless the books of every tenant balance for every month that has turns, as
/// `minichat-dataplane books` tells people. Turns may run.
pub async fn check_balanced(database: &Database) -> anyhow::Result<()> {
    let months = "SELECT DISTINCT tenant_id, substr(CAST(period_start AS TEXT), 1, 7) \
        FROM quota_usage";
    for row in database.query(months).await? {
        let row: Option<Vec<String>> = row.into_iter().collect();
        let row = row.context("a null")?;
        let books = read_books(database, row[0].parse()?, &row[1]).await?;
        ensure!(books.unsettled.is_empty(), "{:?}", books.unsettled);
        ensure!(books.are_balanced(), "{}: {:#?}", row[1], books.differences);
    }
    Ok(())
}

/// The books of a month, such as `2026-11`.
pub async fn read_books(database: &Database, tenant: Uuid, month: &str) -> anyhow::Result<Books> {
    let settings = DatabaseSettings::new(database.url());
    let tenant = TenantRef::Id(TenantId(tenant));
    Books::read(&settings, &tenant, month.parse()?, USAGE).await
}

/// Credits and calls as the quota rows have them, over all days and months.
async fn stored(database: &Database) -> anyhow::Result<BTreeMap<Cell, (i64, i64)>> {
    let rows = database.query(SPENT).await?.into_iter();
    rows.map(|row| {
        let row: Option<Vec<String>> = row.into_iter().collect();
        let row = row.context("a null")?;
        let [user, bucket, period, spent, calls] =
            <[String; 5]>::try_from(row).map_err(|row| anyhow::anyhow!("{row:?}"))?;
        Ok(([user, bucket, period], (spent.parse()?, calls.parse()?)))
    })
    .collect()
}
