//! A PostgreSQL database per test, on the server of the process or of
//! `MINICHAT_TEST_POSTGRES_URL`.

use std::env;

use anyhow::Context as _;
use minichat_store::testing::TestPostgres;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::database::Rows;

/// The server of `MINICHAT_TEST_POSTGRES_URL` as pods of the test cluster reach it.
pub const URL_OF_PODS: &str = "MINICHAT_TEST_POSTGRES_URL_OF_PODS";

const MISSING: &str = "these tests need PostgreSQL: install it (Debian: `apt-get install \
    postgresql`), or set MINICHAT_TEST_POSTGRES_URL to a server on which databases may be created";

/// One database, made for one test.
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

    /// One that is there already.
    pub const fn at(url: String) -> Self {
        Self { url }
    }

    /// Removes the database, whoever is connected.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let (server, name) = self
            .url
            .rsplit_once('/')
            .context("a URL without a database")?;
        let statement = format!("DROP DATABASE {name} WITH (FORCE)");
        query(&format!("{server}/postgres"), &statement).await?;
        Ok(())
    }

    /// For `database.url` of a pod of the test cluster.
    pub fn url_of_pods(&self) -> anyhow::Result<String> {
        let server = env::var(URL_OF_PODS).with_context(|| {
            format!(
                "{URL_OF_PODS} is not set: `cargo xtask test -p minichat-tests --test node` sets it; on a cluster of \
                 your own, set it to the server of MINICHAT_TEST_POSTGRES_URL as pods reach it, without a database"
            )
        })?;
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

/// An open transaction; dropping it rolls it back.
#[derive(Debug)]
pub struct Transaction {
    _client: Client,
}

impl Transaction {
    /// Begins one with `sql`.
    pub async fn begin(url: &str, sql: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("BEGIN").await?;
        client.batch_execute(sql).await?;
        Ok(Self { _client: client })
    }
}

/// Runs one statement; each value of its rows comes as text.
pub async fn query(url: &str, sql: &str) -> anyhow::Result<Rows> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(sql).await;
    let messages = messages.with_context(|| format!("in {sql}"))?;
    drop(client);
    connection.await??;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows
        .map(|row| {
            (0..row.len())
                .map(|i| row.get(i).map(str::to_owned))
                .collect()
        })
        .collect())
}
