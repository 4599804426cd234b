//! Uploads by public clients: `curl`, and Python with `httpx`, `requests` and its
//! standard library.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use minichat_tests::child::python;
use minichat_tests::client::BASE;
use minichat_tests::harness::Scene;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

/// The path of a Python that has the libraries; `cargo xtask test` installs it.
const PYTHON: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_PYTHON";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/upload-clients/upload.py");

/// A user with a chat that takes documents of at most 1 MiB.
struct Place {
    scene: Scene,
    url: String,
    headers: [(&'static str, String); 2],
}

impl Place {
    async fn new(env: &minichat_tests::harness::Env) -> anyhow::Result<Self> {
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        tenant.spec()["uploads"] = json!({"maxFileSizeKb": 1024});
        let stack = env.serve(&[&tenant]).await?;
        let user = Uuid::new_v4();
        let chat = stack.caller(&tenant, user)?.create_chat(None).await?;
        let url = format!("http://{}{BASE}/chats/{chat}/attachments", stack.app_addr());
        let headers = [
            ("x-tenant-id", tenant.id.to_string()),
            ("x-user-id", user.to_string()),
        ];
        let scene = Scene {
            provider,
            tenant,
            stack,
        };
        Ok(Self {
            scene,
            url,
            headers,
        })
    }

    /// Names and sizes of the files that the provider has.
    async fn kept(&self) -> anyhow::Result<Vec<Vec<Option<String>>>> {
        let sql = "SELECT filename, CAST(size_bytes AS TEXT) FROM attachments \
            WHERE status = 'ready' ORDER BY created_at, id";
        self.scene.database().query(sql).await
    }
}

/// Output of a program that must succeed.
async fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Uploads a file of `env` with `curl`. Returns the status and the answer.
async fn curl(place: &Place, arguments: &[&str]) -> anyhow::Result<(String, Value)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]);
    for (name, value) in &place.headers {
        command.args(["--header", &format!("{name}: {value}")]);
    }
    let printed = output(command.args(arguments).arg(&place.url)).await?;
    let (answer, status) = printed.rsplit_once('\n').context("no status")?;
    Ok((status.to_owned(), serde_json::from_str(answer)?))
}

on_each_database! {
    /// API-101, API-102, API-103, CONT-52: a refused client reads its answer although it
    /// wanted to send more.
    async fn python_uploads_with_every_client(env) {
        let place = Place::new(&env).await?;
        let headers = place.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        let headers = Value::Object(headers.collect());
        let mut command = Command::new(python(PYTHON)?);
        let printed = output(command.args([SCRIPT, &place.url, &headers.to_string()])).await?;
        let lines: Result<Vec<Value>, _> = printed.lines().map(serde_json::from_str).collect();
        let lines = lines?;
        let cases = [("text", 201), ("name", 201), ("empty", 400), ("type", 415), ("large", 413)];
        for client in ["httpx", "requests", "http.client"] {
            for (case, status) in cases {
                let line = lines.iter().find(|it| it["client"] == client && it["case"] == case);
                let line = line.with_context(|| format!("{client} {case}: {printed}"))?;
                assert_eq!(line["status"], status, "{line}");
                if case == "name" {
                    assert_eq!(line["answer"]["filename"], "grüße 🦀.md", "{line}");
                }
            }
        }
        let kept = place.kept().await?;
        assert_eq!(kept.len(), 7, "{kept:?}");
        assert_eq!(kept[6], [Some("lines.txt".to_owned()), Some("50000".to_owned())]);
    }

    /// API-101, API-103, CONT-52
    async fn curl_uploads_files(env) {
        let place = Place::new(&env).await?;
        let write = |name: &str, content: &[u8]| {
            let path = env.file(name);
            std::fs::write(&path, content).map(|()| format!("file=@{}", path.display()))
        };
        let notes = write("notes.txt", b"a text")?;
        let code = write("main.rs", b"fn main() {}")?;
        let large = write("large.txt", &vec![b'x'; 20 << 20])?;
        let (status, answer) = curl(&place, &["--form", &notes]).await?;
        assert_eq!((status.as_str(), &answer["content_type"]), ("201", &json!("text/plain")));
        // curl does not know the extension and sends octets.
        let (status, answer) = curl(&place, &["--form", "other=1", "--form", &code]).await?;
        assert_eq!((status.as_str(), &answer["content_type"]), ("201", &json!("text/x-rust")));
        let renamed = format!("{notes};filename=\"a b.md\";type=text/markdown");
        let (status, answer) = curl(&place, &["--form", &renamed]).await?;
        assert_eq!((status.as_str(), &answer["content_type"]), ("201", &json!("text/markdown")));
        for framing in ["content-type;", "transfer-encoding: chunked"] {
            let arguments = ["--header", framing, "--header", "expect:", "--form", &large];
            let arguments = if framing.starts_with("content-type") { &arguments[2..] } else { &arguments[..] };
            let (status, answer) = curl(&place, arguments).await?;
            assert_eq!((status.as_str(), &answer["code"]), ("413", &json!("file_too_large")));
        }
        let (status, _) = curl(&place, &["--header", "expect: 100-continue", "--form", &large]).await?;
        assert_eq!(status, "413");
        let nowhere = format!("{}/chats/{}/attachments", place.url.split("/chats/").next().unwrap_or_default(), Uuid::new_v4());
        let elsewhere = Place { url: nowhere, ..place };
        let (status, answer) = curl(&elsewhere, &["--header", "expect:", "--form", &large]).await?;
        assert_eq!((status.as_str(), &answer["code"]), ("404", &json!("chat_not_found")));
        let place = elsewhere;
        assert_eq!(place.kept().await?.len(), 3);
    }
}
