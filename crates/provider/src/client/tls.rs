//! Trusted certificates (D47): the public certificate authorities, and those of
//! `outbound.ca_file`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Why a certificate file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read, or is not PEM.
    #[error("cannot be read: {0}")]
    Pem(#[from] pem::Error),
    /// The file contains no certificate.
    #[error(
        "holds no certificate; write one or more in PEM, each after -----BEGIN CERTIFICATE-----"
    )]
    Empty,
    /// An entry is not a valid certificate.
    #[error("holds a certificate that cannot be read: {0}")]
    Certificate(rustls::Error),
}

/// Reads `file` as `outbound.ca_file` would be read, and returns what is wrong
/// with it.
pub fn check_ca_file(file: &Path) -> Result<(), CaFileError> {
    roots(Some(file)).map(drop)
}

/// Encrypts one connection to the server `name`. Its certificate must be of a public authority, or of one in
/// `ca_file` (PEM).
pub async fn encrypt<S>(
    stream: S,
    name: &str,
    ca_file: Option<&Path>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let tls = Tls::new(ca_file.map(Path::to_path_buf));
    tls.connect(name, stream).await
}

/// Encrypts connections.
#[derive(Debug)]
pub(super) struct Tls {
    ca_file: Option<PathBuf>,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ClientConfig>,
    /// Modification time and length of the file when it was read.
    version: Option<Version>,
}

type Version = (SystemTime, u64);

impl Tls {
    pub(super) const fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            current: Mutex::new(None),
        }
    }

    /// Encrypts `stream`. The server must have a certificate for `name`.
    pub(super) async fn connect<S>(
        &self,
        name: ServerName<'static>,
        stream: S,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config()?)
            .connect(name, stream)
            .await
            .map_err(explained)
    }

    /// The current trust settings. A changed file is read again. While it
    /// cannot be read, the previous certificates stay in effect.
    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let version = self.ca_file.as_deref().and_then(version);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match current.take() {
            Some(same) if same.version == version => {
                return Ok(Arc::clone(&current.insert(same).config));
            }
            before => before,
        };
        let read = roots(self.ca_file.as_deref()).map_err(io::Error::other);
        let config = match (read.and_then(client_config), before) {
            (Ok(config), _) => config,
            (Err(error), Some(before)) => {
                let file = self.ca_file.as_deref().map(Path::display);
                let file = file.map(|file| file.to_string());
                tracing::warn!(%error, file, "outbound.ca_file cannot be read; the certificates read before stay in effect");
                before.config
            }
            (Err(error), None) => return Err(error),
        };
        let current = current.insert(Current { config, version });
        Ok(Arc::clone(&current.config))
    }
}

/// Adds to an unknown-authority error what to do about it.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let is_unknown = matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer
        ))
    );
    if is_unknown {
        let what =
            "the certificate is of an authority that is not trusted; add it to outbound.ca_file";
        io::Error::new(error.kind(), what)
    } else {
        error
    }
}

fn version(file: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, CaFileError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let public = roots.len();
    for certificate in ca_file
        .map(CertificateDer::pem_file_iter)
        .transpose()?
        .into_iter()
        .flatten()
    {
        roots.add(certificate?).map_err(CaFileError::Certificate)?;
    }
    if ca_file.is_some() && roots.len() == public {
        return Err(CaFileError::Empty);
    }
    Ok(roots)
}

fn client_config(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
