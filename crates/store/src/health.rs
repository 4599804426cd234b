//! Whether the database serves (PLAT-161).

use crate::tx::{Dialect, only_column};
use crate::{Store, StoreError, Tx};

impl Store {
    /// One trivial query on a pooled connection or a reader.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx: &mut Tx| {
            Box::pin(async move {
                tx.query_opt("SELECT 1", &[], |_| Ok(())).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
    }

    /// Commits a small write. It fails whenever a request that writes would
    /// fail.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.write(|tx: &mut Tx| Box::pin(tx.write_probe())).await
    }
}

impl Tx {
    /// Changes a value that is never read. The value differs each time, because
    /// `SQLite` does not write an unchanged value.
    async fn write_probe(&mut self) -> Result<(), StoreError> {
        let change = match self.dialect() {
            Dialect::Postgres => "UPDATE schema_migrations SET version = version WHERE version = 1",
            Dialect::Sqlite => {
                let value: Option<i64> = self
                    .query_opt("PRAGMA user_version", &[], only_column)
                    .await?;
                if value == Some(0) {
                    "PRAGMA user_version = 1"
                } else {
                    "PRAGMA user_version = 0"
                }
            }
        };
        self.execute_later(change, [])
    }
}
