//! TLS of a listener (PLAT-168).

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::tests::{read_to, scripted, send};
use super::*;

/// A directory with a certificate and its key, which a test replaces.
struct Pair {
    directory: TempDir,
    /// Every replacement is a second younger.
    age: Duration,
}

impl Pair {
    fn create() -> (Self, CertificateDer<'static>) {
        let mut pair = Self {
            directory: tempfile::tempdir().unwrap(),
            age: Duration::ZERO,
        };
        let certificate = pair.replace();
        (pair, certificate)
    }

    fn files(&self) -> [PathBuf; 2] {
        ["tls.crt", "tls.key"].map(|name| self.directory.path().join(name))
    }

    fn replace(&mut self) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write(&cert.pem(), &signing_key.serialize_pem());
        cert.der().clone()
    }

    fn write(&mut self, certificate: &str, key: &str) {
        self.age += Duration::from_secs(1);
        let time = SystemTime::UNIX_EPOCH + self.age;
        for (file, text) in self.files().iter().zip([certificate, key]) {
            fs::write(file, text).unwrap();
            let file = File::options().write(true).open(file).unwrap();
            file.set_modified(time).unwrap();
        }
    }

    fn read(&self) -> Result<ServerTls, TlsFileError> {
        let [certificate, key] = self.files();
        ServerTls::read(certificate, key)
    }

    /// Replaces the pair, and lets `tls` look at it.
    fn renew(&mut self, tls: &ServerTls) -> CertificateDer<'static> {
        let certificate = self.replace();
        self.look(tls);
        certificate
    }

    fn look(&self, tls: &ServerTls) {
        tls.config_at(Instant::now() + self.age);
    }
}

async fn start(tls: Arc<ServerTls>, app: Router) -> (SocketAddr, Lifecycle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::default();
    let runtimes = Runtimes::default();
    tokio::spawn({
        let lifecycle = lifecycle.clone();
        async move { serve_on(&runtimes, listener, Some(tls), app, lifecycle).await }
    });
    (address, lifecycle)
}

/// A client that trusts this certificate only.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

/// PLAT-160, PLAT-168
#[tokio::test]
async fn an_encrypted_stream_is_passed_on_as_it_comes() {
    let (pair, certificate) = Pair::create();
    let (app, events) = scripted();
    let (address, _) = start(Arc::new(pair.read().unwrap()), app).await;
    let mut client = connect(address, &certificate).await.unwrap();
    send(&mut client, "/events").await;
    for event in ["first", "second"] {
        events.send(event).unwrap();
        read_to(&mut client, &format!("{event}\r\n")).await;
    }
    drop(events);
    read_to(&mut client, "0\r\n\r\n").await;
    // The connection is used again.
    send(&mut client, "/").await;
    read_to(&mut client, "hello").await;
}

/// PLAT-168: what the listener does without TLS, it does with it.
#[tokio::test]
async fn a_client_that_leaves_during_an_encrypted_stream_is_noticed() {
    let (pair, certificate) = Pair::create();
    let (app, events) = scripted();
    let (address, _) = start(Arc::new(pair.read().unwrap()), app).await;
    let mut client = connect(address, &certificate).await.unwrap();
    send(&mut client, "/events").await;
    events.send("begun").unwrap();
    read_to(&mut client, "begun\r\n").await;
    drop(client);
    // The body is dropped, and with it the receiver.
    events.closed().await;
}

/// PLAT-168
#[tokio::test]
async fn without_tls_nothing_is_answered() {
    let (pair, certificate) = Pair::create();
    let (app, _events) = scripted();
    let (address, _) = start(Arc::new(pair.read().unwrap()), app).await;
    let mut plain = TcpStream::connect(address).await.unwrap();
    send(&mut plain, "/").await;
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.contains("HTTP"), "{text}");
    let (_, other) = Pair::create();
    connect(address, &other).await.unwrap_err();
    connect(address, &certificate).await.unwrap();
}

/// PLAT-168: a client that never ends its handshake does not hold up the end.
#[tokio::test]
async fn an_unfinished_handshake_ends_with_the_listener() {
    let (pair, _) = Pair::create();
    let (app, _events) = scripted();
    let (address, lifecycle) = start(Arc::new(pair.read().unwrap()), app).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    // The listener has accepted it once it answers another one.
    let mut other = TcpStream::connect(address).await.unwrap();
    send(&mut other, "/").await;
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut other, &mut rest).await;
    lifecycle.stopping.fire();
    rest.clear();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT / 2, closed)
        .await
        .expect("still open");
    assert!(rest.is_empty());
}

/// PLAT-168
#[tokio::test]
async fn a_renewed_pair_serves_new_connections_and_a_bad_one_none() {
    let (mut pair, first) = Pair::create();
    let tls = Arc::new(pair.read().unwrap());
    let (app, _events) = scripted();
    let (address, _) = start(Arc::clone(&tls), app).await;
    let mut before = connect(address, &first).await.unwrap();

    let second = pair.renew(&tls);
    connect(address, &second).await.unwrap();
    connect(address, &first).await.unwrap_err();
    send(&mut before, "/").await;
    read_to(&mut before, "hello").await;

    for (certificate, key) in [("", ""), ("no PEM", "no PEM")] {
        pair.write(certificate, key);
        pair.look(&tls);
        connect(address, &second).await.unwrap();
    }
    let third = pair.renew(&tls);
    connect(address, &third).await.unwrap();
}

/// PLAT-168: most connections cost no look at the files.
#[test]
fn the_files_are_looked_at_once_a_second() {
    let (mut pair, _) = Pair::create();
    let [certificate, key] = pair.files();
    let start = Instant::now();
    let tls = ServerTls::read_at(certificate, key, start).unwrap();
    let first = tls.config_at(start);
    pair.replace();
    let at = |millis| tls.config_at(start + Duration::from_millis(millis));
    assert!(Arc::ptr_eq(&at(999), &first));
    let second = at(1000);
    assert!(!Arc::ptr_eq(&second, &first));
    assert!(Arc::ptr_eq(&at(2000), &second));
}

/// PLAT-168
#[test]
fn files_that_cannot_be_used_are_refused_in_words() {
    let (mut pair, _) = Pair::create();
    let [certificate, key] = pair.files().map(|file| fs::read_to_string(file).unwrap());
    let (other, _) = Pair::create();
    let other_key = fs::read_to_string(&other.files()[1]).unwrap();
    let broken = certificate.replace("MII", "!!!");
    let nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, key, words) in [
        ("", key.as_str(), "tls.crt: holds no certificate"),
        (&broken, &key, "tls.crt: the certificate cannot be read"),
        (nothing, &key, "tls.crt: cannot be used"),
        (&certificate, "", "tls.key: the private key cannot be read"),
        (
            &certificate,
            &certificate,
            "tls.key: the private key cannot be read",
        ),
        (
            &certificate,
            &other_key,
            "tls.key: is not the private key of",
        ),
    ] {
        pair.write(certificate, key);
        let refused = pair.read().unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    pair.write(&certificate, &key);
    pair.read().unwrap();
    fs::remove_file(&pair.files()[0]).unwrap();
    let refused = pair.read().unwrap_err().to_string();
    assert!(
        refused.contains("tls.crt: the certificate cannot be read"),
        "{refused}"
    );
}
