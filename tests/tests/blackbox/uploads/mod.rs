//! Uploads: what is accepted, what is refused, and what is left of an upload that
//! breaks.

mod accepted;
mod broken;
mod indexed;
mod pictures;
mod refused;

use minichat_tests::exposition::Scrape;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::manifest::Tenant;
use minichat_tests::raw_client::{Caller, RawClient};
use minichat_tests::scripted_provider::{RecordedRequest, Scenario};
use uuid::Uuid;

const TOTAL: &str = "mini_chat_attachment_upload_total";

/// Serves a tenant whose model `prem` has the code interpreter.
async fn scene(env: &Env) -> anyhow::Result<Scene> {
    env.scene_with(with_code_interpreter).await
}

fn with_code_interpreter(mut tenant: Tenant) -> Tenant {
    tenant.model("prem")["toolSupport"] = serde_json::json!({"codeInterpreter": true});
    tenant
}

/// The same with settings of the process, and after `change`.
async fn scene_with(
    env: &Env,
    settings: &str,
    change: impl FnOnce(&mut Tenant),
) -> anyhow::Result<Scene> {
    let provider = minichat_tests::scripted_provider::ScriptedProvider::start().await?;
    let mut tenant = with_code_interpreter(Tenant::new("acme", provider.addr));
    change(&mut tenant);
    let stack = env.serve_with(&[&tenant], settings).await?;
    Ok(Scene {
        provider,
        tenant,
        stack,
    })
}

/// Counts of uploads since `before`, as `kind/result` with their number.
async fn counted(scene: &Scene, before: &Scrape) -> anyhow::Result<Vec<(String, f64)>> {
    let after = scene.stack.scrape().await?;
    let mut counts = Vec::new();
    for kind in ["document", "image"] {
        for result in [
            "ok",
            "file_too_large",
            "unsupported_type",
            "provider_error",
            "storage_limit_exceeded",
            "concurrency_limit",
            "document_limit_exceeded",
            "other",
        ] {
            let labels = [("kind", kind), ("result", result)];
            let increase = after.sum(TOTAL, &labels) - before.sum(TOTAL, &labels);
            if increase > 0.0 {
                counts.push((format!("{kind}/{result}"), increase));
            }
        }
    }
    Ok(counts)
}

/// Waits until no upload is under way.
async fn settled(scene: &Scene) -> anyhow::Result<()> {
    let is_idle = async || {
        let scrape = scene.stack.scrape().await?;
        Ok(scrape.sum("mini_chat_attachments_pending", &[]) == 0.0)
    };
    scene.stack.eventually("settled", is_idle).await
}

/// Status, `error_code` and whether the clean-up is due, of all files.
async fn rows(scene: &Scene) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT status, COALESCE(error_code, '-'), COALESCE(cleanup_status, '-') \
        FROM attachments ORDER BY created_at, id";
    let rows = scene.database().query(sql).await?;
    let rows = rows.into_iter().map(|row| {
        let values: Vec<_> = row.into_iter().flatten().collect();
        values.join(" ")
    });
    Ok(rows.collect())
}

/// The requests that stored a file.
fn files(scene: &Scene) -> Vec<RecordedRequest> {
    let requests = scene.provider.requests().into_iter();
    requests
        .filter(|it| {
            it.method == "POST"
                && it
                    .path
                    .split('?')
                    .next()
                    .is_some_and(|path| path.ends_with("/files"))
        })
        .filter(|it| !it.path.contains("vector_stores"))
        .collect()
}

/// For the call that stores a file.
fn for_files() -> Scenario {
    Scenario {
        for_method: Some("POST".to_owned()),
        ..Scenario::default().for_path("/files")
    }
}

/// A connection of a user with a chat, and the chat.
struct Uploader {
    client: RawClient,
    caller: Caller,
    chat: String,
}

impl Uploader {
    async fn connect(scene: &Scene) -> anyhow::Result<Self> {
        let user = Uuid::new_v4();
        let api = scene.stack.caller(&scene.tenant, user)?;
        Ok(Self {
            client: RawClient::connect(scene.stack.app_addr()).await?,
            caller: Caller {
                tenant: scene.tenant.id,
                user,
            },
            chat: api.create_chat(None).await?,
        })
    }

    /// Sends the head of a request; `framing` is `Content-Length` or
    /// `Transfer-Encoding`.
    async fn begin(&mut self, framing: &str) -> anyhow::Result<()> {
        let headers = format!(
            "content-type: multipart/form-data; boundary={}\r\n{framing}\r\n",
            minichat_tests::form::BOUNDARY
        );
        let path = format!("/chats/{}/attachments", self.chat);
        let head = self.caller.head("POST", &path, &headers);
        self.client.write(&format!("{head}\r\n")).await
    }
}

const CHUNKED: &str = "transfer-encoding: chunked";
