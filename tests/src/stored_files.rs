//! Chats with files and vector stores at a scripted provider, whose rows are written
//! directly, and what the clean-up makes of them.

use std::net::SocketAddr;

use anyhow::Context as _;
use minichat_dataplane::cleanup::{Limits, Report};
use minichat_telemetry::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::client::Api;
use crate::database::{Database, DatabaseKind};
use crate::harness::{Env, Stack};
use crate::manifest::Tenant;
use crate::scripted_provider::ScriptedProvider;

/// No pass is made but those of the test, and a call may take two seconds.
pub const MANUAL: &str =
    "MINICHAT_CLEANUP_WORKER_ENABLED=false\nMINICHAT_CLEANUP_WORKER_CALL_TIMEOUT_SECS=2";

/// A data plane with one tenant, whose provider stores files.
pub struct StoredFiles {
    pub provider: ScriptedProvider,
    pub tenant: Tenant,
    pub stack: Stack,
    pub user: Api,
}

/// A row of `attachments`.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The provider's id of the file.
    pub file: Option<&'a str>,
    pub status: &'a str,
    /// Label of the provider.
    pub backend: &'a str,
}

impl StoredFiles {
    pub async fn start(env: &Env, settings: &str) -> anyhow::Result<Self> {
        Self::start_with(env, settings, |tenant| tenant).await
    }

    /// Serves one tenant after `change`.
    pub async fn start_with(
        env: &Env,
        settings: &str,
        change: impl FnOnce(Tenant) -> Tenant,
    ) -> anyhow::Result<Self> {
        let provider = ScriptedProvider::start().await?;
        let tenant = change(Tenant::new("acme", provider.addr));
        let stack = env.serve_with(&[&tenant], settings).await?;
        let user = stack.new_user(&tenant)?;
        Ok(Self {
            provider,
            tenant,
            stack,
            user,
        })
    }

    /// A chat with `files` documents and their vector store.
    pub async fn chat_with(&self, files: usize) -> anyhow::Result<String> {
        let chat = self.user.create_chat(None).await?;
        let store = new_store(self.provider.addr).await?;
        self.insert_store(&chat, Some(&store), "main").await?;
        for _ in 0..files {
            self.document(&chat).await?;
        }
        Ok(chat)
    }

    /// A ready document of the chat, and its file.
    pub async fn document(&self, chat: &str) -> anyhow::Result<(Uuid, String)> {
        let file = new_file(self.provider.addr).await?;
        let row = Row {
            file: Some(&file),
            status: "ready",
            backend: "main",
        };
        Ok((self.insert(chat, row).await?, file))
    }

    pub async fn insert(&self, chat: &str, row: Row<'_>) -> anyhow::Result<Uuid> {
        insert(&self.stack.database, chat, row).await
    }

    pub async fn insert_store(
        &self,
        chat: &str,
        store: Option<&str>,
        label: &str,
    ) -> anyhow::Result<()> {
        let database = &self.stack.database;
        let id = uuid(database, Uuid::new_v4());
        let store = store.map_or_else(|| "NULL".to_owned(), |id| format!("'{id}'"));
        let sql = format!(
            "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
             created_at) SELECT {id}, c.tenant_id, c.id, {store}, '{label}', c.created_at \
             FROM chats c WHERE c.id = '{chat}'"
        );
        database.query(&sql).await?;
        Ok(())
    }

    /// What the deletion of an attachment writes (CONT-162).
    pub async fn delete_attachment(&self, id: Uuid) -> anyhow::Result<()> {
        let sql = format!(
            "UPDATE attachments SET deleted_at = updated_at, cleanup_status = 'pending', \
             cleanup_updated_at = updated_at WHERE id = '{id}'"
        );
        self.stack.database.query(&sql).await?;
        Ok(())
    }

    pub async fn delete_chat(&self, chat: &str) -> anyhow::Result<()> {
        let deleted = self.user.delete(&format!("/chats/{chat}")).await?;
        deleted.expect(204).map(|_| ())
    }

    /// One pass in this process.
    pub async fn pass(&self) -> Report {
        let limits = Limits {
            stop: &Signal::new(),
            deadline: tokio::time::Instant::now() + std::time::Duration::from_mins(1),
        };
        self.stack.cleanup().run_once(limits).await
    }

    /// The deletions that the provider saw, in their order.
    pub fn deletions(&self) -> Vec<String> {
        let requests = self.provider.requests().into_iter();
        requests
            .filter(|request| request.method == "DELETE")
            .map(|request| request.path)
            .collect()
    }

    /// How many files and vector stores the provider has.
    pub fn stored(&self) -> (usize, usize) {
        let (files, stores) = self.provider.stored();
        (files.len(), stores.len())
    }

    /// Attachments with this `cleanup_status`.
    pub async fn count(&self, status: &str) -> anyhow::Result<i64> {
        let sql = format!("SELECT count(*) FROM attachments WHERE cleanup_status = '{status}'");
        self.stack.database.number(&sql).await
    }

    /// The counter of a family of the clean-up.
    pub async fn counted(&self, family: &str, labels: &[(&str, &str)]) -> anyhow::Result<usize> {
        let name = format!("mini_chat_cleanup_{family}_total");
        self.stack.scrape().await?.count(&name, labels)
    }
}

/// A new file at the provider.
pub async fn new_file(provider: SocketAddr) -> anyhow::Result<String> {
    let body = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
        --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
        content-type: text/plain\r\n\r\nhello\r\n--b--\r\n";
    create(
        provider,
        "/v1/files",
        "multipart/form-data; boundary=b",
        body,
    )
    .await
}

/// A new vector store at the provider.
pub async fn new_store(provider: SocketAddr) -> anyhow::Result<String> {
    create(provider, "/v1/vector_stores", "application/json", "{}").await
}

async fn create(
    provider: SocketAddr,
    path: &str,
    content_type: &str,
    body: &str,
) -> anyhow::Result<String> {
    let length = body.len();
    let mut stream = TcpStream::connect(provider).await?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {provider}\r\nconnection: close\r\n\
         content-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let from = answer.find('{').context(answer.clone())?;
    let to = answer.rfind('}').context(answer.clone())?;
    let object: Value = serde_json::from_str(&answer[from..=to])?;
    let id = object["id"].as_str().context(answer)?;
    Ok(id.to_owned())
}

/// Writes a row of a living chat.
pub async fn insert(database: &Database, chat: &str, row: Row<'_>) -> anyhow::Result<Uuid> {
    let Row {
        file,
        status,
        backend,
    } = row;
    let id = Uuid::new_v4();
    let column = uuid(database, id);
    let file = file.map_or_else(|| "NULL".to_owned(), |id| format!("'{id}'"));
    let sql = format!(
        "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, \
         content_type, size_bytes, storage_backend, provider_file_id, status, attachment_kind, \
         for_file_search, created_at, updated_at) SELECT {column}, c.tenant_id, c.id, c.user_id, \
         'a.txt', 'text/plain', 5, '{backend}', {file}, '{status}', 'document', TRUE, \
         c.created_at, c.created_at FROM chats c WHERE c.id = '{chat}'"
    );
    database.query(&sql).await?;
    Ok(id)
}

/// Moves the last change of all attachments an hour into the past.
pub async fn age(database: &Database) -> anyhow::Result<()> {
    let hour = match database.kind() {
        DatabaseKind::Sqlite => "3600000000",
        DatabaseKind::Postgres => "INTERVAL '1 hour'",
    };
    for sql in [
        format!(
            "UPDATE attachments SET cleanup_updated_at = cleanup_updated_at - {hour}, \
             cleanup_due_at = cleanup_due_at - 24 * {hour}, updated_at = updated_at - {hour}"
        ),
        format!(
            "UPDATE chat_vector_stores SET created_at = created_at - {hour}, \
             cleanup_updated_at = cleanup_updated_at - {hour}, \
             cleanup_due_at = cleanup_due_at - 24 * {hour}"
        ),
    ] {
        database.query(&sql).await?;
    }
    Ok(())
}

fn uuid(database: &Database, id: Uuid) -> String {
    match database.kind() {
        DatabaseKind::Sqlite => format!("'{id}'"),
        DatabaseKind::Postgres => format!("CAST('{id}' AS UUID)"),
    }
}
