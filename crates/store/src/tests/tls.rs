//! PostgreSQL over TLS (D43), on a server that insists on it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use minichat_core::{SystemClock, TurnId};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::Db;
use crate::testing::{ServerTls, TestPostgres};
use crate::tx::only_column;
use crate::{DatabaseSettings, Store, StoreError, Tx};

type Authority = Issuer<'static, KeyPair>;

/// A server whose certificate is for `localhost`, and the files of its clients.
struct Scene {
    _server: TestPostgres,
    port: u16,
    files: TempDir,
}

impl Scene {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Scene> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let (ca, ca_pem) = authority("server authority");
        let (clients, clients_pem) = authority("client authority");
        let (other, other_pem) = authority("another authority");
        let (certificate, key) = signed(&ca, "localhost");
        let (server, port) = TestPostgres::start_with_tls(&ServerTls {
            certificate,
            key,
            client_ca: clients_pem,
            address: None,
        })
        .unwrap();
        let files = TempDir::new().unwrap();
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
        write("ca.pem", &ca_pem);
        write("other.pem", &other_pem);
        for (name, signer) in [("client", &clients), ("stranger", &other)] {
            let (certificate, key) = signed(signer, "certified");
            write(&format!("{name}.pem"), &certificate);
            write(&format!("{name}.key"), &key);
        }
        Self {
            _server: server,
            port,
            files,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Settings for `user@host`, with the files of `query` where they are.
    fn settings(&self, user: &str, host: &str, query: &str) -> DatabaseSettings {
        let directory = self.files.path().display().to_string();
        let query = query.replace("FILES", &directory);
        let mut settings = DatabaseSettings::new(format!(
            "postgres://{user}@{host}:{}/postgres?{query}",
            self.port
        ));
        settings.max_conns = 2;
        settings
    }

    async fn open(&self, user: &str, host: &str, query: &str) -> Result<Store, StoreError> {
        let settings = self.settings(user, host, query);
        Store::open(&settings, Arc::new(SystemClock)).await
    }

    async fn is_encrypted(&self, user: &str, host: &str, query: &str) -> bool {
        let store = self.open(user, host, query).await;
        let store = store.unwrap_or_else(|error| panic!("{user}@{host} {query}: {error}"));
        is_encrypted(&store).await
    }

    async fn refusal(&self, user: &str, host: &str, query: &str) -> StoreError {
        match self.open(user, host, query).await {
            Ok(_) => panic!("{user}@{host} {query}: connected"),
            Err(error) => error,
        }
    }
}

async fn is_encrypted(store: &Store) -> bool {
    let row = store.read(|tx: &mut Tx| {
        Box::pin(async {
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            tx.query_opt(sql, &[], only_column).await
        })
    });
    let row: Result<Option<bool>, StoreError> = row.await;
    row.unwrap().unwrap()
}

fn authority(name: &str) -> (Authority, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// A certificate for `name` and its key.
fn signed(authority: &Authority, name: &str) -> (String, String) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// D43: `disable` gets no session of a server that insists; all others do.
#[tokio::test]
async fn each_sslmode_does_what_it_says() {
    let scene = Scene::shared();
    for (host, query) in [
        ("localhost", ""),
        ("localhost", "sslmode=prefer"),
        ("127.0.0.1", "sslmode=require"),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=FILES/ca.pem"),
        ("localhost", "sslmode=verify-full&sslrootcert=FILES/ca.pem"),
        // An authority that is named counts.
        ("127.0.0.1", "sslmode=require&sslrootcert=FILES/ca.pem"),
    ] {
        assert!(scene.is_encrypted("postgres", host, query).await, "{query}");
    }
    let refused = scene
        .refusal("postgres", "localhost", "sslmode=disable")
        .await;
    assert!(refused.to_string().contains("no encryption"), "{refused}");
}

/// D43: a certificate of the wrong authority, or for another name, is refused,
/// and the error says what to write.
#[tokio::test]
async fn a_certificate_that_is_wrong_is_refused() {
    let scene = Scene::shared();
    for (host, query, advice) in [
        (
            "localhost",
            "sslmode=verify-ca&sslrootcert=FILES/other.pem",
            "sslrootcert",
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=FILES/other.pem",
            "sslrootcert",
        ),
        (
            "localhost",
            "sslmode=require&sslrootcert=FILES/other.pem",
            "sslrootcert",
        ),
        ("localhost", "sslmode=verify-full", "sslrootcert"),
        (
            "127.0.0.1",
            "sslmode=verify-full&sslrootcert=FILES/ca.pem",
            "write the host",
        ),
    ] {
        let refused = scene.refusal("postgres", host, query).await;
        assert!(matches!(refused, StoreError::Tls(_)), "{query}: {refused}");
        assert!(refused.to_string().contains(advice), "{query}: {refused}");
        assert!(refused.is_unavailable(), "{refused}");
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let scene = Scene::shared();
    let verified = "sslmode=verify-full&sslrootcert=FILES/ca.pem";
    let with = |name: &str| format!("{verified}&sslcert=FILES/{name}.pem&sslkey=FILES/{name}.key");
    // The user is the server's own to make.
    let sql = "CREATE ROLE certified LOGIN SUPERUSER";
    let owner = scene.open("postgres", "localhost", verified).await.unwrap();
    let made = owner.write(move |tx: &mut Tx| Box::pin(async move { tx.execute_later(sql, []) }));
    made.await.map_err(|error: StoreError| error).unwrap();
    assert!(
        scene
            .is_encrypted("certified", "localhost", &with("client"))
            .await
    );
    let missing = scene.refusal("certified", "localhost", verified).await;
    assert!(missing.to_string().contains("certificate"), "{missing}");
    let stranger = scene
        .refusal("certified", "localhost", &with("stranger"))
        .await;
    assert!(stranger.is_unavailable(), "{stranger}");
}

/// Requests to stop turns come over the same kind of connection (D3).
#[tokio::test]
async fn stop_requests_are_heard_over_tls() {
    let scene = Scene::shared();
    let query = "sslmode=verify-full&sslrootcert=FILES/ca.pem";
    let store = scene.open("postgres", "localhost", query).await.unwrap();
    let mut requests = store.stop_requests().await.unwrap().unwrap();
    let turn = TurnId::random();
    let request =
        store.write(move |tx: &mut Tx| Box::pin(async move { tx.turn_request_stop(turn) }));
    request.await.map_err(|error: StoreError| error).unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), requests.next()).await;
    assert_eq!(heard.unwrap(), turn);
}

/// A server without TLS serves those who do not insist.
#[tokio::test]
async fn a_server_without_tls_serves_only_who_does_not_insist() {
    let db = Db::postgres().await;
    let open = |query: &str| {
        let mut settings = db.settings.clone();
        settings.url = format!("{}?{query}", settings.url);
        async move { Store::open(&settings, Arc::new(SystemClock)).await }
    };
    assert!(!is_encrypted(&open("sslmode=prefer").await.unwrap()).await);
    assert!(!is_encrypted(&open("sslmode=disable").await.unwrap()).await);
    for query in ["sslmode=require", "sslmode=verify-full"] {
        let refused = open(query).await.err().unwrap();
        assert!(matches!(refused, StoreError::Tls(_)), "{refused}");
        assert!(refused.to_string().contains("ssl = on"), "{refused}");
    }
}

/// What is wrong with a file is said with its name, before anybody connects.
#[test]
fn files_that_cannot_be_used_are_named() {
    let scene = Scene::shared();
    std::fs::write(scene.file("empty.pem"), "").unwrap();
    for (query, words) in [
        ("sslmode=verify-ca&sslrootcert=/nowhere.pem", "/nowhere.pem"),
        (
            "sslmode=verify-ca&sslrootcert=FILES/empty.pem",
            "no certificate",
        ),
        (
            "sslmode=require&sslcert=FILES/empty.pem&sslkey=FILES/client.key",
            "sslcert",
        ),
        (
            "sslmode=require&sslcert=FILES/client.pem&sslkey=FILES/ca.pem",
            "no private key",
        ),
    ] {
        let fault = scene.settings("u", "h", query).check_files().unwrap_err();
        let fault = fault.to_string();
        assert!(fault.starts_with("database.url: ssl"), "{fault}");
        assert!(fault.contains(words), "{query}: {fault}");
    }
}
