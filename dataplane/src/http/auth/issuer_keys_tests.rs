//! When an issuer is called, with a clock that the tests set.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minichat_config::AllowPrivate;
use minichat_config::outbound::Outbound;
use minichat_core::TenantId;
use minichat_provider::ClientSettings;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const TENANT: TenantId = TenantId(uuid::Uuid::nil());

/// Hands out one key, under a name that changes.
#[derive(Default)]
struct Keys {
    name: Mutex<String>,
    is_down: AtomicBool,
    fetches: AtomicUsize,
}

struct Scene {
    served: Arc<Keys>,
    keys: Arc<IssuerKeys>,
    issuer: Issuer,
}

impl Keys {
    fn publish(&self, name: &str) {
        name.clone_into(&mut self.name.lock().unwrap());
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        self.fetches.fetch_add(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The key of RFC 8037, appendix A.2.
        let keys = json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "kid": *self.name.lock().unwrap(),
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }]})
        .to_string();
        let length = keys.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{keys}").as_bytes()).await
    }
}

impl Scene {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::<Keys>::default();
        served.publish("a");
        let answering = Arc::clone(&served);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = answering.answer(stream).await;
            }
        });
        let client = ProviderClient::new(&ClientSettings {
            outbound: Outbound {
                allow_private: AllowPrivate::everything(),
                ..Outbound::default()
            },
            ..ClientSettings::default()
        });
        Self {
            served,
            keys: Arc::new(IssuerKeys::new(client, true)),
            issuer: Issuer {
                issuer: "https://login.example.com".to_owned(),
                audience: "minichat".to_owned(),
                jwks_uri: Some(format!("http://{address}/keys")),
                tenant_claim: None,
                user_claim: "sub".to_owned(),
                scopes_claim: "scope".to_owned(),
            },
        }
    }

    /// Whether the key called `name` is known. If so, a token is refused for
    /// its signature.
    async fn knows(&self, name: &str) -> bool {
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({"alg": "EdDSA", "kid": name}));
        let text = format!("{header}.{}.{}", part(json!({})), "AAAA");
        let token = Token::parse(&text).unwrap();
        match self
            .keys
            .verified(TENANT, &self.issuer, ChosenBy::Tenant(TENANT), &token)
            .await
        {
            Err(Unproven::Rejected(Rejection::Signature)) => true,
            Err(Unproven::Rejected(Rejection::UnknownKey)) => false,
            _ => panic!("the keys of a test verify nothing"),
        }
    }

    fn fetches(&self) -> usize {
        self.served.fetches.load(Ordering::Relaxed)
    }

    async fn until_fetches(&self, count: usize) {
        let fetched = async {
            while self.fetches() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), fetched).await.unwrap();
        // The fetching task holds the lock until the keys are there.
        let entries: Vec<_> = self.keys.lock().by_source.values().cloned().collect();
        for entry in entries {
            drop(entry.attempts.lock().await);
        }
    }
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// PLAT-131
#[tokio::test]
async fn unknown_keys_are_asked_for_at_most_once_a_minute() {
    let scene = Scene::start().await;
    assert!(scene.knows("a").await);
    assert!(!scene.knows("b").await);
    assert_eq!(scene.fetches(), 2);
    scene.served.publish("b");
    pass(Duration::from_secs(58)).await;
    assert!(!scene.knows("b").await);
    assert_eq!(scene.fetches(), 2);
    pass(Duration::from_secs(2)).await;
    assert!(scene.knows("b").await && !scene.knows("a").await);
    assert_eq!(scene.fetches(), 3);
}

/// A withdrawn key stops working, and no request waits for the new one.
#[tokio::test]
async fn old_keys_are_replaced_while_they_are_used() {
    let scene = Scene::start().await;
    assert!(scene.knows("a").await);
    scene.served.publish("b");
    pass(MAX_AGE).await;
    assert!(scene.knows("a").await);
    scene.until_fetches(2).await;
    assert!(scene.knows("b").await && !scene.knows("a").await);
}

/// PLAT-131: known keys stay valid while the issuer is unreachable; it is
/// called again once a minute.
#[tokio::test]
async fn old_keys_go_on_while_the_issuer_is_away() {
    let scene = Scene::start().await;
    assert!(scene.knows("a").await);
    scene.served.is_down.store(true, Ordering::Relaxed);
    for minute in 0..5 {
        pass(MAX_AGE).await;
        for _ in 0..3 {
            assert!(scene.knows("a").await);
        }
        scene.until_fetches(2 + minute).await;
        assert!(scene.knows("a").await);
        assert_eq!(scene.fetches(), 2 + minute);
    }
}

/// D48: the URL in a discovery document is checked too.
#[tokio::test]
async fn a_discovery_document_leads_nowhere_that_may_not_be_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let document = json!({"issuer": issuer, "jwks_uri": "http://169.254.169.254/keys"}).to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            document.len()
        );
        stream.write_all((head + &document).as_bytes()).await
    });
    let scene = Scene::start().await;
    let source = Source {
        issuer,
        jwks_uri: None,
        is_of_process: false,
    };
    let fetched = scene.keys.fetch(&source, ChosenBy::Tenant(TENANT)).await;
    let error = fetched.err().unwrap();
    assert!(
        matches!(&error, FetchKeysError::Fetch(_, FetchError::Refused(_))),
        "{error}"
    );
}

#[tokio::test]
async fn keys_of_addresses_that_nobody_lists_any_more_are_dropped() {
    let mut scene = Scene::start().await;
    assert!(scene.knows("a").await);
    let first = Source::new(&scene.issuer, ChosenBy::Tenant(TENANT));
    let address = scene.issuer.jwks_uri.clone().unwrap();
    for number in 0..3 * MAX_OTHERS {
        scene.issuer.jwks_uri = Some(format!("{address}?{number}"));
        scene.keys.drop_unlisted(|| HashSet::from([first.clone()]));
        assert!(scene.knows("a").await);
        assert!(scene.keys.lock().by_source.len() <= MAX_OTHERS + 2);
    }
    let fetches = scene.fetches();
    scene.issuer.jwks_uri = Some(address);
    assert!(scene.knows("a").await);
    assert_eq!(scene.fetches(), fetches, "those that are listed stay");
}
