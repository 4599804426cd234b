//! A PostgreSQL database per test, on the process's own server or on that of
//! `MINICHAT_TEST_POSTGRES_URL`.

use std::env;
use std::net::IpAddr;

use anyhow::Context as _;
use minichat_store::testing::TestPostgres;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, ValueRef as _};

use crate::database::Rows;

/// URL of the server of `MINICHAT_TEST_POSTGRES_URL` for pods of the test
/// cluster.
pub const URL_OF_PODS: &str = "MINICHAT_TEST_POSTGRES_URL_OF_PODS";

/// Attempts to remove a database.
const ATTEMPTS: u32 = 5;

const MISSING: &str = "these tests need PostgreSQL: install it (Debian: `apt-get install \
    postgresql`), or set MINICHAT_TEST_POSTGRES_URL to a server on which databases may be created";

/// One database, created for one test.
#[derive(Clone, Debug)]
pub struct PostgresDatabase {
    url: String,
}

impl PostgresDatabase {
    /// An empty database on the test server, which the first caller starts.
    pub async fn create() -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(TestPostgres::shared)
            .await?
            .context(MISSING)?;
        let url = server.create_database().await.context(MISSING)?;
        Ok(Self { url })
    }

    /// An existing database.
    pub const fn at(url: String) -> Self {
        Self { url }
    }

    /// The same database; each session of its URL gets `settings`.
    #[must_use]
    pub fn with_settings(&self, settings: &[(&str, &str)]) -> Self {
        let words = settings.iter();
        let words: Vec<_> = words
            .map(|(name, value)| format!("-c%20{name}%3D{value}"))
            .collect();
        let mark = if words.is_empty() { "" } else { "?options=" };
        let url = self.url.split('?').next().unwrap_or_default();
        Self {
            url: format!("{url}{mark}{}", words.join("%20")),
        }
    }

    /// Removes the database even if it has connections.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let url = self.url.split('?').next().unwrap_or_default();
        let (server, name) = url.rsplit_once('/').context("a URL without a database")?;
        let statement = format!("DROP DATABASE {name} WITH (FORCE)");
        let server = format!("{server}/postgres");
        let mut attempt = 1;
        loop {
            let removed = query(&server, &statement).await;
            // On a busy machine, sessions take longer to end than the server waits.
            if removed.is_ok() || attempt == ATTEMPTS {
                return removed.map(drop);
            }
            attempt += 1;
        }
    }

    /// For `database.url` of a pod of the test cluster.
    pub fn url_of_pods(&self) -> anyhow::Result<String> {
        let server = server_of_pods()?;
        let (_, name) = self
            .url
            .rsplit_once('/')
            .context("a URL without a database")?;
        Ok(format!("{server}/{name}"))
    }

    /// For `database.url`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The server as pods of the test cluster reach it: `postgres://USER@ADDRESS:PORT`.
fn server_of_pods() -> anyhow::Result<String> {
    env::var(URL_OF_PODS).with_context(|| {
        format!(
            "{URL_OF_PODS} is not set: `cargo xtask test -p minichat-tests --test node` sets it; on a cluster of \
             your own, set it to the server of MINICHAT_TEST_POSTGRES_URL as pods reach it, without a database"
        )
    })
}

/// The address at which pods of the test cluster reach this machine.
pub fn address_for_pods() -> anyhow::Result<IpAddr> {
    let server = server_of_pods()?;
    let (_, server) = server.rsplit_once('@').context("a URL without a user")?;
    let (address, _) = server.rsplit_once(':').context("a URL without a port")?;
    address
        .parse()
        .with_context(|| format!("{URL_OF_PODS} must have an address, not a name: {address}"))
}

/// An open transaction. It is rolled back when dropped.
#[derive(Debug)]
pub struct Transaction {
    _connection: PgConnection,
}

impl Transaction {
    /// Begins a transaction with `sql`.
    pub async fn begin(url: &str, sql: &str) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let sql = AssertSqlSafe(format!("BEGIN; {sql}"));
        connection.execute(sqlx::raw_sql(sql)).await?;
        Ok(Self {
            _connection: connection,
        })
    }
}

/// Runs one statement and returns its values as text.
pub async fn query(url: &str, sql: &str) -> anyhow::Result<Rows> {
    let mut connection = PgConnection::connect(url).await?;
    let rows = query_on(&mut connection, sql).await?;
    connection.close().await?;
    Ok(rows)
}

/// The same on a connection that stays.
pub async fn query_on(connection: &mut PgConnection, sql: &str) -> anyhow::Result<Rows> {
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())));
    let rows = rows.await.with_context(|| format!("in {sql}"))?;
    rows.iter().map(texts).collect()
}

fn texts(row: &PgRow) -> anyhow::Result<Vec<Option<String>>> {
    let text = |index| {
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            return Ok(None);
        }
        let text = value.as_str().map_err(anyhow::Error::from_boxed)?;
        Ok(Some(text.to_owned()))
    };
    (0..row.len()).map(text).collect()
}
