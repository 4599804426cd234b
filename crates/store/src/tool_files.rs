//! The files of a chat that tools can use (CONT-100), and what an answer may cite of
//! them (CONT-109).

use minichat_core::{AttachmentId, ChatId, TenantId};

use crate::postgres::Commits;
use crate::value::{Row, params};
use crate::{StoreError, Tx};

/// What tools find in a chat.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ToolFiles {
    /// The store with the chat's documents: where it is, and its id at the provider.
    /// `None` while no document is ready, or the store has no id.
    pub vector_store: Option<FileAtProvider>,
    /// The files that code can read, in the order in which they were uploaded
    /// (CONT-6).
    pub code_files: Vec<FileAtProvider>,
}

/// A file or a store at a provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileAtProvider {
    /// The label of the storage that holds it.
    pub backend: String,
    pub id: String,
}

/// A document that an answer may cite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CitableFile {
    pub provider_file_id: String,
    pub attachment_id: AttachmentId,
    pub filename: String,
}

/// The condition of a file `a` that a tool can use.
macro_rules! is_usable {
    () => {
        "a.status = 'ready' AND a.deleted_at IS NULL AND a.provider_file_id IS NOT NULL \
         AND (a.for_file_search OR a.for_code_interpreter)"
    };
}
pub(crate) use is_usable;

impl Tx {
    /// What tools find in a chat of the tenant.
    pub async fn tool_files(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<ToolFiles, StoreError> {
        let params = params![tenant, chat];
        let rows = self.query(TOOL_FILES_SQL, &params, found_row);
        Ok(ToolFiles::of(rows.await?))
    }

    /// The same on PostgreSQL, before anything is locked.
    pub async fn tool_files_snapshot(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<ToolFiles, StoreError> {
        let params = params![tenant, chat];
        let rows = self.single(TOOL_FILES_SQL, &params, found_row, Commits::Nothing);
        Ok(ToolFiles::of(rows.await?))
    }

    /// The files of a chat that an answer may cite.
    pub async fn citable_files(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
    ) -> Result<Vec<CitableFile>, StoreError> {
        self.query(
            "SELECT provider_file_id, id, filename FROM attachments WHERE tenant_id = $1 \
             AND chat_id = $2 AND status = 'ready' AND deleted_at IS NULL \
             AND provider_file_id IS NOT NULL",
            &params![tenant, chat],
            |row| {
                Ok(CitableFile {
                    provider_file_id: row.take()?,
                    attachment_id: row.take()?,
                    filename: row.take()?,
                })
            },
        )
        .await
    }
}

/// First the store, if a document in it is ready, then the files.
const TOOL_FILES_SQL: &str = concat!(
    "SELECT kind, backend, provider_id FROM (\
     SELECT 'store' AS kind, s.provider AS backend, s.vector_store_id AS provider_id, \
     s.created_at AS created_at, s.id AS id FROM chat_vector_stores s \
     WHERE s.tenant_id = $1 AND s.chat_id = $2 AND s.vector_store_id IS NOT NULL \
     AND EXISTS (SELECT 1 FROM attachments a WHERE a.tenant_id = $1 AND a.chat_id = $2 \
     AND a.for_file_search AND ",
    is_usable!(),
    ") UNION ALL SELECT 'file', a.storage_backend, a.provider_file_id, a.created_at, a.id \
     FROM attachments a WHERE a.tenant_id = $1 AND a.chat_id = $2 \
     AND a.for_code_interpreter AND ",
    is_usable!(),
    ") f ORDER BY kind DESC, created_at, id"
);

struct Found {
    is_store: bool,
    file: FileAtProvider,
}

fn found_row(row: &Row<'_>) -> Result<Found, StoreError> {
    let kind: String = row.take()?;
    Ok(Found {
        is_store: kind == "store",
        file: FileAtProvider {
            backend: row.take()?,
            id: row.take()?,
        },
    })
}

impl ToolFiles {
    fn of(rows: Vec<Found>) -> Self {
        let mut files = Self::default();
        for Found { is_store, file } in rows {
            if is_store {
                files.vector_store = Some(file);
            } else {
                files.code_files.push(file);
            }
        }
        files
    }
}
