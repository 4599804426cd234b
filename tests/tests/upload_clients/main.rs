//! Uploads by public clients: `curl`; Python with `httpx`, `requests` and its standard
//! library; Go with its standard library; Node with `fetch` and `http`; and a form in a
//! browser, Chromium.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use minichat_tests::child::{installed, python};
use minichat_tests::client::BASE;
use minichat_tests::form;
use minichat_tests::harness::{Env, Scene};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

/// What `cargo xtask test` installs: a Python that has the libraries, the program of
/// `upload.go`, Node, the directory with its packages, and Chromium.
const PYTHON: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_PYTHON";
const GO: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_GO";
const NODE: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_NODE";
const NODE_MODULES: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_NODE_MODULES";
const CHROMIUM: &str = "MINICHAT_TEST_UPLOAD_CLIENTS_CHROMIUM";

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/upload-clients");

/// Each client uploads these files. The last one is much larger than it may be.
const CASES: [(&str, u16); 5] = [
    ("text", 201),
    ("name", 201),
    ("empty", 400),
    ("type", 415),
    ("large", 413),
];

const NAME: &str = "grüße 🦀.md";

/// A user with a chat that takes documents of at most 1 MiB.
struct Place {
    scene: Scene,
    url: String,
    headers: [(&'static str, String); 2],
}

impl Place {
    async fn new(env: &Env) -> anyhow::Result<Self> {
        Self::with(env, "").await
    }

    /// With these settings of the process.
    async fn with(env: &Env, settings: &str) -> anyhow::Result<Self> {
        let provider = ScriptedProvider::start().await?;
        let mut tenant = Tenant::new("acme", provider.addr);
        tenant.spec()["uploads"] = json!({"maxFileSizeKb": 1024});
        let stack = env.serve_with(&[&tenant], settings).await?;
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

    /// The address and the headers of the caller, as programs get them.
    fn arguments(&self) -> [String; 2] {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), json!(value)));
        let headers = Value::Object(headers.collect());
        [self.url.clone(), headers.to_string()]
    }

    /// Names and sizes of the files that the provider has.
    async fn kept(&self) -> anyhow::Result<Vec<Vec<Option<String>>>> {
        let sql = "SELECT filename, CAST(size_bytes AS TEXT) FROM attachments \
            WHERE status = 'ready' ORDER BY created_at, id";
        self.scene.database().query(sql).await
    }
}

/// One line for each upload of a program.
struct Lines(Vec<Value>);

impl Lines {
    /// Runs the program, which must succeed.
    async fn of(command: &mut Command, place: &Place) -> anyhow::Result<Self> {
        let printed = output(command.args(place.arguments())).await?;
        let lines: Result<_, _> = printed.lines().map(serde_json::from_str).collect();
        Ok(Self(lines?))
    }

    fn of_case(&self, client: &str, case: &str) -> anyhow::Result<&Value> {
        let is_it = |line: &&Value| line["client"] == client && line["case"] == case;
        let line = self.0.iter().find(is_it);
        line.with_context(|| format!("{client} {case}: {:?}", self.0))
    }

    /// Checks that the client uploaded all files, and was answered as it should.
    fn check(&self, client: &str) -> anyhow::Result<()> {
        for (case, status) in CASES {
            let line = self.of_case(client, case)?;
            assert_eq!(line["status"], status, "{line}");
        }
        let line = self.of_case(client, "name")?;
        assert_eq!(line["answer"]["filename"], NAME, "{line}");
        Ok(())
    }
}

/// A script of the directory `upload-clients`, for Node.
fn node(script: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(installed(NODE, "Node.js")?);
    command
        .env(
            "NODE_PATH",
            installed(NODE_MODULES, "the directory of its packages")?,
        )
        .arg(format!("{SCRIPTS}/{script}"));
    Ok(command)
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
        let mut command = Command::new(python(PYTHON)?);
        let lines = Lines::of(command.arg(format!("{SCRIPTS}/upload.py")), &place).await?;
        for client in ["httpx", "requests", "http.client"] {
            lines.check(client)?;
        }
        let kept = place.kept().await?;
        assert_eq!(kept.len(), 7, "{kept:?}");
        assert_eq!(kept[6], [Some("lines.txt".to_owned()), Some("50000".to_owned())]);
    }

    /// API-101, API-102, API-103, CONT-52: forms with a length and in chunks. Go escapes
    /// quotation marks in names.
    async fn go_uploads_buffers_and_pipes(env) {
        let place = Place::new(&env).await?;
        let lines = Lines::of(&mut Command::new(installed(GO, "the program of `upload.go`")?), &place).await?;
        for client in ["go buffer", "go pipe"] {
            lines.check(client)?;
            let quoted = lines.of_case(client, "quoted")?;
            assert_eq!(quoted["status"], 201, "{quoted}");
            assert_eq!(quoted["answer"]["filename"], "a \"quoted\" name.md", "{quoted}");
        }
        assert_eq!(place.kept().await?.len(), 6);
    }

    /// API-101, API-102, API-103, CONT-52
    async fn node_uploads_forms_and_streams(env) {
        let place = Place::new(&env).await?;
        let lines = Lines::of(&mut node("upload.cjs")?, &place).await?;
        for client in ["fetch", "http"] {
            lines.check(client)?;
        }
        let kept = place.kept().await?;
        assert_eq!(kept.len(), 4, "{kept:?}");
        assert_eq!(kept[3], [Some(NAME.to_owned()), Some("7".to_owned())]);
    }

    /// API-28, API-101, API-102, API-103, API-107, CONT-52, CONT-66: a page of another
    /// origin, in Chromium. The thumbnail is one that a browser shows.
    async fn a_browser_uploads_the_file_of_a_form(env) {
        let place = Place::with(&env, "MINICHAT_SERVER_CORS_ENABLED=true").await?;
        let large = vec![b'x'; 20 << 20];
        let picture = form::png(1000, 500)?;
        let files: [(&str, &[u8]); 6] = [
            ("notes.txt", b"a text"),
            (NAME, b"# title"),
            ("empty.txt", b""),
            ("a.zip", b"PK\x03\x04"),
            ("large.txt", &large),
            ("picture.png", &picture),
        ];
        for (name, content) in files {
            std::fs::write(env.file(name), content)?;
        }
        let mut command = node("browser.cjs")?;
        command.env(CHROMIUM, installed(CHROMIUM, "Chromium")?).current_dir(env.file(""));
        let lines = Lines::of(&mut command, &place).await?;
        lines.check("browser")?;
        let picture = lines.of_case("browser", "picture")?;
        assert_eq!(picture["status"], 201, "{picture}");
        assert_eq!(picture["answer"]["kind"], "image", "{picture}");
        assert_eq!(picture["shown"], json!([128, 64]), "{picture}");
        assert_eq!(place.kept().await?.len(), 3);
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
