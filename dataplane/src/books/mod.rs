//! `minichat-dataplane books`: what the users of a tenant spent in a month, and
//! whether everything that says so agrees: the turns, the usage events and the quota
//! rows. It needs only the database, reads one snapshot of it and changes nothing.
//!
//! The books *balance* if and only if, for each user and day, the turns that ended
//! have the credits and the number of the usage events and of the daily quota rows,
//! and the turns that run have the credits that are reserved there; and the same for
//! each user's month.
//!
//! Turns that a release ended which did not write what it booked are *unsettled*.
//! They cannot be compared, nor can what else their user did on that day and on the
//! next one, to which an event of that release may belong.

mod compare;
mod ledger;
mod output;

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use minichat_config::process::{JobConfig, OutboxKind};
use minichat_core::{Date, NamespacedName, TenantId, Timestamp};
use minichat_store::{DatabaseSettings, Snapshot};

pub use self::compare::{Difference, Fact};
pub use self::ledger::{Line, LineKey};
use crate::database;

/// What to read, and how to write it.
#[derive(Debug, Clone)]
pub struct BooksQuery {
    pub tenant: TenantRef,
    pub month: Month,
    pub output: Output,
}

/// A tenant by its id, or by its `ChatTenant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRef {
    Id(TenantId),
    Owner(NamespacedName),
}

/// A month in UTC, written `YYYY-MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    first: Date,
}

/// The form of the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON object.
    Json,
    /// One row per user, day and model.
    Csv,
    /// The same in the columns of FOCUS 1.0.
    Focus,
}

/// The books of one tenant and month.
#[derive(Debug)]
pub struct Books {
    pub tenant: TenantId,
    pub month: Month,
    pub lines: std::collections::BTreeMap<LineKey, Line>,
    /// Users and days that cannot be compared, with the turns that are unsettled.
    pub unsettled: Vec<(minichat_core::UserId, Date, u64)>,
    pub differences: Vec<Difference>,
}

impl Books {
    /// Reads the books of `tenant` from one snapshot of the database. Usage events are
    /// in the queue `usage_queue`.
    pub async fn read(
        settings: &DatabaseSettings,
        tenant: &TenantRef,
        month: Month,
        usage_queue: &str,
    ) -> anyhow::Result<Self> {
        let mut snapshot = Snapshot::open(settings).await?;
        let tenant = match tenant {
            TenantRef::Id(id) => *id,
            TenantRef::Owner(owner) => {
                let id = snapshot.book_tenant(owner).await?;
                id.with_context(|| format!("--tenant: {owner} was never served from this database; `minichat-dataplane tenants list` shows those that were"))?
            }
        };
        let ledger = ledger::Ledger::read(&mut snapshot, tenant, month, usage_queue).await?;
        Ok(compare::books(ledger))
    }

    pub fn are_balanced(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Writes the books to `out`. `Ok(false)`: they do not balance. Forms that hold only
/// rows have the differences in `errors`.
pub async fn books(
    config: &JobConfig,
    query: &BooksQuery,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> anyhow::Result<bool> {
    let settings = database::settings(&config.database);
    let usage_queue = config.outbox.queue(OutboxKind::Usage);
    let books = Books::read(&settings, &query.tenant, query.month, usage_queue).await?;
    output::write(&books, query.output, out, errors).context("the books cannot be written")?;
    Ok(books.are_balanced())
}

impl Month {
    /// The month of `at`.
    pub fn of(at: Timestamp) -> Self {
        Self {
            first: at.date().first_of_month(),
        }
    }

    pub(crate) const fn first(self) -> Date {
        self.first
    }

    /// The first day of the next month.
    pub(crate) fn end(self) -> Date {
        self.first.first_of_next_month()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.to_string();
        f.write_str(first.strip_suffix("-01").unwrap_or(&first))
    }
}

impl FromStr for Month {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match format!("{text}-01").parse() {
            Ok(first) if text.len() == "2026-11".len() => Ok(Self { first }),
            _ => bail!("write a month such as 2026-11"),
        }
    }
}

impl FromStr for TenantRef {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let owner = text.parse();
        owner
            .map(Self::Owner)
            .context("write the tenant's id, or namespace/name of its ChatTenant")
    }
}

impl FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "table" => Self::Table,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "focus" => Self::Focus,
            _ => bail!("write table, json, csv or focus"),
        })
    }
}
