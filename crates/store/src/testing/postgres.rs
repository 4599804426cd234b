//! A private PostgreSQL server for tests. It lives in a temporary directory and
//! stops with the process that started it, however that process ends.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;

/// Names a server to use instead of a private one:
/// `postgres://user:password@host:port`, without a database.
pub const URL_VARIABLE: &str = "MINICHAT_TEST_POSTGRES_URL";

/// A PostgreSQL server on which every test creates its own databases.
pub struct TestPostgres {
    /// `postgres://…`, without a database.
    base_url: String,
    databases: AtomicU32,
    server: Option<Server>,
}

/// PEM files of a server that requires TLS. The user `certified` needs a
/// certificate of `client_ca` with that name; other users need none.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
    /// An address of this machine to listen on, besides 127.0.0.1.
    pub address: Option<String>,
}

/// Why no server is available.
#[derive(Debug, thiserror::Error)]
pub enum TestPostgresError {
    #[error("no PostgreSQL server binaries below /usr/lib/postgresql")]
    NotInstalled,
    #[error("the server is not a private one")]
    NotPrivate,
    #[error("initdb: {0}")]
    Initialize(String),
    #[error("the server ended before it was ready: {0}")]
    Start(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl TestPostgres {
    /// The server of this process. The first caller starts it.
    pub fn shared() -> Result<&'static Self, &'static TestPostgresError> {
        static SHARED: OnceLock<Result<TestPostgres, TestPostgresError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A private server, or the one that [`URL_VARIABLE`] names.
    pub fn start() -> Result<Self, TestPostgresError> {
        let (base_url, server) = if let Ok(url) = std::env::var(URL_VARIABLE) {
            (url.trim_end_matches('/').to_owned(), None)
        } else {
            let server = Server::start(None, Durability::Volatile)?;
            (server.url(), Some(server))
        };
        Ok(Self {
            base_url,
            databases: AtomicU32::new(0),
            server,
        })
    }

    /// A private server whose commits survive a crash. What is committed
    /// asynchronously is lost, unless another commit follows.
    pub fn start_durable() -> Result<Self, TestPostgresError> {
        let server = Server::start(None, Durability::Durable)?;
        Ok(Self {
            base_url: server.url(),
            databases: AtomicU32::new(0),
            server: Some(server),
        })
    }

    /// Lets a private server crash, and starts it again.
    pub fn crash(&mut self) -> Result<(), TestPostgresError> {
        let server = self.server.as_mut();
        server.ok_or(TestPostgresError::NotPrivate)?.crash()
    }

    /// A private server that refuses connections without TLS, and its port.
    pub fn start_with_tls(tls: &ServerTls) -> Result<(Self, u16), TestPostgresError> {
        let server = Server::start(Some(tls), Durability::Volatile)?;
        let port = server.port;
        let this = Self {
            base_url: server.url(),
            databases: AtomicU32::new(0),
            server: Some(server),
        };
        Ok((this, port))
    }

    /// Creates an empty database and returns its URL for `database.url`.
    pub async fn create_database(&self) -> Result<String, TestPostgresError> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("minichat_{}_{number}", std::process::id());
        let url = format!("{}/postgres", self.base_url);
        let mut connection = PgConnection::connect(&url).await?;
        for sql in [
            format!("DROP DATABASE IF EXISTS {name}"),
            format!("CREATE DATABASE {name}"),
        ] {
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
                .await?;
        }
        connection.close().await?;
        Ok(format!("{}/{name}", self.base_url))
    }
}

/// A running server. A shell waits for the end of its standard input, which
/// comes even if this process is killed. It then stops the server by its
/// process id and removes the directory. The word `crash` makes it stop the
/// server as a crash would, and start it again.
struct Server {
    directory: PathBuf,
    port: u16,
    watcher: Child,
    lifeline: Option<ChildStdin>,
    states: Option<BufReader<ChildStdout>>,
}

/// Whether a crash of the server may lose commits.
#[derive(Clone, Copy)]
enum Durability {
    Volatile,
    /// Only those that did not wait for the disk. The server puts off writing
    /// these for as long as it can be told to.
    Durable,
}

impl Durability {
    const fn settings(self) -> &'static str {
        match self {
            Self::Volatile => "-c synchronous_commit=off",
            Self::Durable => "-c wal_writer_delay=10s -c wal_writer_flush_after=1GB",
        }
    }
}

const WATCHER: &str = r#"
set -u
# An interrupt reaches the whole process group; the server is stopped below.
trap : INT
bin=$1 dir=$2 port=$3 tls=$4 settings=$5 addresses=$6
"$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --encoding=UTF8 \
    --locale=C --no-sync --no-instructions >"$dir/initdb.log" 2>&1 || { echo initdb; exit 1; }
set --
if [ -n "$tls" ]; then
    install -m 600 "$tls"/* "$dir/data/"
    set -- -c ssl=on -c ssl_ca_file=client_ca.pem -c ssl_cert_file=server.pem -c ssl_key_file=server.key
    printf '%s\n' 'hostssl all certified all cert' 'hostssl all all all trust' >"$dir/data/pg_hba.conf"
fi
start() {
    # Settings are words without blanks.
    "$bin/postgres" "$@" -D "$dir/data" -p "$port" -c listen_addresses="$addresses" \
        -c unix_socket_directories="$dir" -c max_connections=300 -c fsync=off \
        $settings -c full_page_writes=off >>"$dir/server.log" 2>&1 </dev/null &
    server=$!
    for _ in $(seq 300); do
        "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" -U postgres && { echo ready; return; }
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    echo start
    exit 1
}
start "$@"
while read -r word; do
    if [ "$word" = crash ]; then
        kill -QUIT "$server"
        wait "$server"
        start "$@"
    fi
done
kill -INT "$server"
wait "$server"
rm -rf "$dir"
"#;

impl Server {
    fn start(tls: Option<&ServerTls>, durability: Durability) -> Result<Self, TestPostgresError> {
        let bin = server_binaries().ok_or(TestPostgresError::NotInstalled)?;
        let directory = TempDir::with_prefix("minichat-postgres-")?.keep();
        let port = free_port()?;
        let address = tls.and_then(|tls| tls.address.as_deref());
        let addresses = address.map_or_else(
            || "127.0.0.1".to_owned(),
            |address| format!("127.0.0.1,{address}"),
        );
        let tls = tls.map(written).transpose()?;
        let mut command = as_unprivileged_user(&directory)?;
        let mut watcher = command
            .args(["sh", "-c", WATCHER, "sh"])
            .args([&bin, &directory])
            .arg(port.to_string())
            .arg(tls.as_ref().map_or(Path::new(""), TempDir::path))
            .arg(durability.settings())
            .arg(addresses)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self {
            directory,
            port,
            lifeline: watcher.stdin.take(),
            states: watcher.stdout.take().map(BufReader::new),
            watcher,
        };
        server.await_ready()?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.port)
    }

    fn crash(&mut self) -> Result<(), TestPostgresError> {
        if let Some(watcher) = &mut self.lifeline {
            writeln!(watcher, "crash")?;
        }
        self.await_ready()
    }

    fn await_ready(&mut self) -> Result<(), TestPostgresError> {
        let mut state = String::new();
        if let Some(states) = &mut self.states {
            states.read_line(&mut state)?;
        }
        let log = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        match state.trim_end() {
            "ready" => Ok(()),
            "initdb" => Err(TestPostgresError::Initialize(log("initdb.log"))),
            _ => Err(TestPostgresError::Start(log("server.log"))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The watcher ends by itself, even without its parent.
        drop(self.watcher.wait());
    }
}

/// Writes the files to a directory that the server's user can read.
fn written(tls: &ServerTls) -> std::io::Result<TempDir> {
    let ServerTls {
        certificate,
        key,
        client_ca,
        address: _,
    } = tls;
    let directory = TempDir::with_prefix("minichat-postgres-tls-")?;
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&directory, all)?;
    for (name, text) in [
        ("server.pem", certificate),
        ("server.key", key),
        ("client_ca.pem", client_ca),
    ] {
        std::fs::write(directory.path().join(name), text)?;
    }
    Ok(directory)
}

/// The directory of the newest installed release's programs.
fn server_binaries() -> Option<PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    releases
        .filter_map(|release| Some(release.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .max_by_key(|bin| {
            let release = bin.parent().and_then(Path::file_name);
            release.and_then(|name| name.to_str()?.parse::<u32>().ok())
        })
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The server refuses to run as root. As root, it runs as the user `postgres`,
/// which Debian's package creates.
fn as_unprivileged_user(directory: &Path) -> std::io::Result<Command> {
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0;
    if !is_root {
        return Ok(Command::new("env"));
    }
    let owned = Command::new("chown")
        .arg("postgres")
        .arg(directory)
        .status()?;
    if !owned.success() {
        return Err(std::io::Error::other("no user postgres"));
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]);
    Ok(command)
}
