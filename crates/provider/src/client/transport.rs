//! Plain and encrypted byte streams behind one type.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::lookup::Lookups;
use super::origin::Origin;

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(feature = "testing")]
    Memory(tokio::io::DuplexStream),
}

/// How connections are made.
#[derive(Default)]
pub(super) struct Dialer {
    pub(super) lookups: Lookups,
    /// What TLS needs, made at the first encrypted connection.
    pub(super) tls: std::sync::OnceLock<Arc<ClientConfig>>,
    /// Takes the place of the network.
    #[cfg(feature = "testing")]
    pub(super) memory: Option<crate::testing::Dial>,
}

impl Dialer {
    fn connector(&self) -> io::Result<TlsConnector> {
        if let Some(config) = self.tls.get() {
            return Ok(TlsConnector::from(Arc::clone(config)));
        }
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.into(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::clone(
            self.tls.get_or_init(|| Arc::new(config)),
        )))
    }
}

impl Transport {
    /// Resolves, connects and, where the scheme says so, encrypts.
    pub(super) async fn connect(origin: &Origin, dialer: &Dialer) -> io::Result<Self> {
        #[cfg(feature = "testing")]
        if let Some(dial) = &dialer.memory {
            return dial().await.map(Self::Memory);
        }
        let host = origin.bare_host();
        let addresses = dialer.lookups.addresses(host, origin.port).await?;
        let tcp = TcpStream::connect(&addresses[..]).await?;
        // Without it a small request waits for the acknowledgement of the one
        // before, some 40 ms.
        tcp.set_nodelay(true)?;
        if !origin.is_tls {
            return Ok(Self::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = dialer.connector()?.connect(name, tcp).await?;
        Ok(Self::Tls(Box::new(tls)))
    }
}

/// Calls one method on whichever stream it is.
macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Self::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            #[cfg(feature = "testing")]
            Self::Memory(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}
