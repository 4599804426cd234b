//! Whether the database answers (PLAT-161).

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
}
