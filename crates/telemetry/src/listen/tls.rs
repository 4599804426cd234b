//! TLS of a listener: its certificate and key, read again when their files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// How often connections look whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the files of a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The certificate cannot be read, or is not PEM.
    #[error("{}: the certificate cannot be read: {}", .0.display(), .1)]
    Certificate(PathBuf, pem::Error),
    /// The file contains no certificate.
    #[error(
        "{}: holds no certificate; write the server's in PEM, then those of its authorities",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// The key cannot be read, or is not PEM.
    #[error("{}: the private key cannot be read: {}", .0.display(), .1)]
    Key(PathBuf, pem::Error),
    /// The key is of another certificate.
    #[error("{}: is not the private key of {}", .1.display(), .0.display())]
    Mismatch(PathBuf, PathBuf),
    /// TLS cannot use the certificate or the key.
    #[error("{}: cannot be used: {}", .0.display(), .1)]
    Unusable(PathBuf, rustls::Error),
}

/// Certificate and private key of a listener. New connections use what the files hold; while these cannot be used, what
/// they held before.
#[derive(Debug)]
pub struct ServerTls {
    files: Files,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    versions: Versions,
    looked: Instant,
}

/// Modification times and lengths of both files when they were read.
type Versions = [Option<(SystemTime, u64)>; 2];

impl ServerTls {
    /// Reads the certificate with its chain, and its private key, both in PEM.
    pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsFileError> {
        Self::read_at(certificate, key, Instant::now())
    }

    pub(super) fn read_at(
        certificate: PathBuf,
        key: PathBuf,
        now: Instant,
    ) -> Result<Self, TlsFileError> {
        let files = Files { certificate, key };
        let versions = files.versions();
        let current = Current {
            config: files.read()?,
            versions,
            looked: now,
        };
        let current = Mutex::new(current);
        Ok(Self { files, current })
    }

    /// The handshake of one connection.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.config_at(Instant::now()))
            .accept(stream)
            .await
    }

    /// What a connection at `now` uses.
    pub(super) fn config_at(&self, now: Instant) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(current.looked) >= LOOK_EVERY {
            current.looked = now;
            self.renew(&mut current);
        }
        Arc::clone(&current.config)
    }

    fn renew(&self, current: &mut Current) {
        let versions = self.files.versions();
        if versions == current.versions {
            return;
        }
        current.versions = versions;
        match self.files.read() {
            Ok(config) => {
                current.config = config;
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate cannot be renewed; the one before stays in effect");
            }
        }
    }
}

impl Files {
    fn versions(&self) -> Versions {
        let version = |file: &Path| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [version(&self.certificate), version(&self.key)]
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsFileError> {
        let unreadable = |error| TlsFileError::Certificate(self.certificate.clone(), error);
        let chain = CertificateDer::pem_file_iter(&self.certificate).map_err(unreadable)?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        if chain.is_empty() {
            return Err(TlsFileError::NoCertificate(self.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| TlsFileError::Key(self.key.clone(), error))?;
        let config = server_config(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsFileError::Mismatch(self.certificate.clone(), self.key.clone())
            }
            error => TlsFileError::Unusable(self.certificate.clone(), error),
        });
        config.map(Arc::new)
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
