//! Tunnels through a proxy (D47). They are opened by `CONNECT`, for `http` and
//! `https` alike. A proxy sees neither the credentials nor the prompts of
//! encrypted calls.

use std::fmt;
use std::io;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use minichat_config::Secret;
use minichat_config::outbound;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::RequestBody;
use super::origin::Origin;
use crate::request::StartedFlag;

/// The byte stream of a connection through a proxy.
pub(super) type Tunnel = TokioIo<Upgraded>;

/// Which proxy to use for which origin.
pub(super) struct Proxies {
    matcher: Matcher,
}

/// One proxy.
pub(super) struct Proxy {
    origin: Origin,
    authorization: Option<HeaderValue>,
}

/// The proxy's refusal. It names the proxy without its user and password.
#[derive(Debug)]
pub(super) struct ProxyRefusal {
    proxy: String,
    target: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Status(StatusCode),
    Unreachable(io::Error),
    Broken(hyper::Error),
    Unwritable(http::Error),
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            proxy,
            target,
            cause,
        } = self;
        match cause {
            Cause::Status(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => write!(
                f,
                "the proxy {proxy} demands authentication for {target} (407): write user and \
                 password into outbound.proxy"
            ),
            Cause::Status(status) => {
                write!(
                    f,
                    "the proxy {proxy} refused to connect to {target}: {status}"
                )
            }
            Cause::Unreachable(error) => {
                write!(f, "the proxy {proxy} cannot be reached: {error}")
            }
            Cause::Broken(error) => write!(f, "the proxy {proxy} did not answer: {error}"),
            Cause::Unwritable(error) => {
                write!(f, "the proxy {proxy} cannot be used for {target}: {error}")
            }
        }
    }
}

impl Proxies {
    pub(super) fn new(settings: &outbound::Proxies) -> Self {
        let url = |url: &Option<Secret>| url.as_ref().map_or("", Secret::expose).to_owned();
        let matcher = Matcher::builder()
            .http(url(&settings.http))
            .https(url(&settings.https))
            .no(settings.bypass.as_str())
            .build();
        Self { matcher }
    }

    /// The proxy for `origin`; `None` if it is called directly. Loopback
    /// addresses are always called directly, because to a proxy they would mean
    /// the proxy itself.
    pub(super) fn of(&self, origin: &Origin) -> Option<Proxy> {
        let host = origin.bare_host();
        let is_loopback = host.eq_ignore_ascii_case("localhost")
            || outbound::literal(host).is_some_and(|address| address.is_loopback());
        if is_loopback {
            return None;
        }
        let target = Uri::builder()
            .scheme(if origin.is_tls { "https" } else { "http" })
            .authority(origin.authority())
            .path_and_query("/")
            .build();
        Proxy::of(&self.matcher.intercept(&target.ok()?)?)
    }
}

impl Proxy {
    fn of(intercept: &Intercept) -> Option<Self> {
        Some(Self {
            origin: Origin::of_uri(intercept.uri())?,
            authorization: intercept.basic_auth().cloned(),
        })
    }

    /// The proxy's own origin.
    pub(super) const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The failure to connect to the proxy.
    pub(super) fn unreachable(&self, error: io::Error, target: &Origin) -> ProxyRefusal {
        ProxyRefusal {
            proxy: self.origin.authority(),
            target: target.authority(),
            cause: Cause::Unreachable(error),
        }
    }

    /// Asks the proxy at the other end of `stream` for a tunnel to `target`.
    pub(super) async fn open<S>(&self, stream: S, target: &Origin) -> Result<Tunnel, ProxyRefusal>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let refused = |cause| ProxyRefusal {
            proxy: self.origin.authority(),
            target: target.authority(),
            cause,
        };
        let request = self.request(target);
        let request = request.map_err(|error| refused(Cause::Unwritable(error)))?;
        let broken = |error| refused(Cause::Broken(error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // The task ends with the upgrade, or when the sender is dropped.
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(refused(Cause::Status(response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        Ok(TokioIo::new(upgraded))
    }

    fn request(&self, target: &Origin) -> Result<Request<RequestBody>, http::Error> {
        let authority = target.authority();
        let mut request = Request::connect(&authority).header(HOST, &authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        request.body(RequestBody::whole(Bytes::new(), StartedFlag::default()))
    }
}
