//! A scripted issuer of tokens over real sockets (PLAT-131): discovery, keys
//! that change, and failures.

mod signer;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use minichat_core::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub use signer::{ALGORITHMS, Signer};

/// The claim `aud`, unless a test sets another one.
pub const AUDIENCE: &str = "minichat";

/// A running issuer. It stops accepting connections when dropped.
#[derive(Debug)]
pub struct ScriptedIssuer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// How an issuer answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    #[default]
    Well,
    /// Closes every connection without an answer.
    Down,
    /// Accepts requests and never answers.
    Hung,
    /// Answers 500.
    Broken,
    /// Serves the discovery document of another issuer.
    Impostor,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    behaviour: Behaviour,
    /// The published public keys.
    keys: Vec<Value>,
    fetches: usize,
}

impl ScriptedIssuer {
    /// Starts on a free port of the loopback interface, without keys.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let accepting = tokio::spawn(accept(listener, addr, Arc::clone(&shared)));
        Ok(Self {
            addr,
            shared,
            accepting,
        })
    }

    /// Starts with a signer whose key is published.
    pub async fn with_signer() -> anyhow::Result<(Self, Signer)> {
        let issuer = Self::start().await?;
        let signer = Signer::new("first", "EdDSA")?;
        issuer.publish(&[&signer]);
        Ok((issuer, signer))
    }

    /// The claim `iss` of its tokens.
    pub fn name(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Publishes the keys of `signers` and no others.
    pub fn publish(&self, signers: &[&Signer]) {
        self.shared.state().keys = signers.iter().map(|signer| signer.jwk()).collect();
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.state().behaviour = behaviour;
    }

    /// Number of requests for the keys, answered or not.
    pub fn fetches(&self) -> usize {
        self.shared.state().fetches
    }

    /// The claims of a token that is valid for an hour, changed by `change`.
    /// `null` removes a claim.
    pub fn claims(&self, change: &Value) -> Value {
        let now = now();
        let mut claims = json!({
            "iss": self.name(), "aud": AUDIENCE, "iat": now, "exp": now + 3600,
        });
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        if let Some(claims) = claims.as_object_mut() {
            claims.retain(|_, value| !value.is_null());
        }
        claims
    }

    /// A token of [`Self::claims`].
    pub fn token(&self, signer: &Signer, change: &Value) -> String {
        signer.token(&self.claims(change))
    }

    /// Settings of a data plane with this issuer.
    pub fn settings(&self) -> String {
        format!(
            "MINICHAT_AUTH_MODE=oidc\nMINICHAT_AUTH_ISSUER={}\nMINICHAT_AUTH_AUDIENCE={AUDIENCE}",
            self.name()
        )
    }
}

impl Drop for ScriptedIssuer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemClock.now().as_micros() / 1_000_000
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        addr: SocketAddr,
        request: &Request<Incoming>,
    ) -> io::Result<Response<Full<Bytes>>> {
        let asks_for_keys = request.uri().path() == "/keys";
        let (behaviour, keys) = {
            let mut state = self.state();
            state.fetches += usize::from(asks_for_keys);
            (state.behaviour, state.keys.clone())
        };
        match behaviour {
            Behaviour::Well | Behaviour::Impostor => {}
            Behaviour::Down => return Err(io::ErrorKind::ConnectionReset.into()),
            Behaviour::Hung => match pending::<Infallible>().await {},
            Behaviour::Broken => {
                return Ok(answered(StatusCode::INTERNAL_SERVER_ERROR, &json!({})));
            }
        }
        let name = match behaviour {
            Behaviour::Impostor => "https://login.example.com".to_owned(),
            _ => format!("http://{addr}"),
        };
        Ok(match request.uri().path() {
            "/keys" => answered(StatusCode::OK, &json!({ "keys": keys })),
            "/.well-known/openid-configuration" => {
                let keys = format!("http://{addr}/keys");
                answered(StatusCode::OK, &json!({"issuer": name, "jwks_uri": keys}))
            }
            _ => answered(StatusCode::NOT_FOUND, &json!({})),
        })
    }
}

async fn accept(listener: TcpListener, addr: SocketAddr, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, addr, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, addr: SocketAddr, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { shared.answer(addr, &request).await }
    });
    // A connection that ends in an error was scripted to.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answered(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}
