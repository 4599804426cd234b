//! Which addresses a tenant's provider may have (D48).

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use minichat_config::AllowPrivate;
use minichat_config::outbound::Outbound;
use minichat_core::TenantId;
use minichat_core::turn::TurnErrorCode;
use minichat_provider::{
    ChosenBy, ClientSettings, FailureKind, FetchError, FetchLimits, ProviderClient,
};

use crate::support::{Setup, client};

/// Spellings of loopback: names, numbers and IPv6 forms.
const LOOPBACK: [&str; 8] = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
];

fn allowing(list: &str) -> Outbound {
    Outbound {
        allow_private: list.parse().unwrap(),
        ..Outbound::default()
    }
}

/// D48
#[tokio::test]
async fn a_private_address_that_is_not_allowed_is_never_connected_to() {
    let mut setup = Setup::responses().await;
    setup.client = client(Outbound::default());
    for host in LOOPBACK {
        setup.provider.host = host.to_owned();
        let failure = setup.send("Hi").await.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::RefusedAddress,
            "{host}: {failure:?}"
        );
        assert_eq!(failure.error_code(), TurnErrorCode::ProviderError);
        assert_eq!(
            &*failure.message,
            "The provider's address may not be called from here."
        );
        assert!(
            failure.detail.contains("outbound.allow_private"),
            "{failure:?}"
        );
    }
    assert!(!setup.started.get());
    assert_eq!(setup.server.stats().connections_total, 0);
    setup.client = client(allowing("127.0.0.0/8"));
    setup.provider.host = "127.0.0.1".to_owned();
    setup.send("Hi").await.unwrap();
}

/// D48: under every name, and even if the address is allowed.
#[tokio::test]
async fn the_process_never_calls_its_own_listeners() {
    let mut setup = Setup::responses().await;
    setup.client = ProviderClient::new(&ClientSettings {
        outbound: Outbound {
            allow_private: AllowPrivate::everything(),
            ..Outbound::default()
        },
        own_ports: vec![setup.provider.port],
        ..ClientSettings::default()
    });
    let here = own_address();
    // A resolver may know only one spelling of `localhost`.
    let spelt = LOOPBACK.into_iter().filter(|host| *host != "LOCALHOST.");
    for host in spelt.chain(here.as_deref()) {
        setup.provider.host = host.to_owned();
        let failure = setup.send("Hi").await.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::RefusedAddress,
            "{host}: {failure:?}"
        );
        // The machine's own address may be of a class that is never called.
        let says_why = ["this process itself listens", "is never called"];
        assert!(
            says_why.iter().any(|why| failure.detail.contains(why)),
            "{failure:?}"
        );
    }
    assert_eq!(setup.server.stats().connections_total, 0);
}

/// An address of this machine that other machines use, if there is one.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.41.0.4:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then(|| address.to_string())
}

/// D48: addresses that no list can allow.
#[tokio::test]
async fn metadata_and_link_local_addresses_are_refused_whatever_is_allowed() {
    let mut setup = Setup::responses().await;
    setup.client = client(allowing("0.0.0.0/0, ::/0, internal"));
    for host in [
        "169.254.169.254",
        "0xa9fea9fe",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
        "0.0.0.0",
        "0",
        "[::]",
        "[fe80::1]",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
    ] {
        setup.provider.host = host.to_owned();
        let failure = setup.send("Hi").await.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::RefusedAddress,
            "{host}: {failure:?}"
        );
        assert!(failure.detail.contains("never called"), "{failure:?}");
    }
}

/// D48: issuers' keys follow the same rules. The process's own addresses are
/// not restricted.
#[tokio::test]
async fn documents_are_fetched_by_the_same_rules() {
    let setup = Setup::responses().await;
    let client = client(Outbound::default());
    let url = format!("http://127.0.0.1:{}/nothing", setup.provider.port);
    let limits = |chosen_by| FetchLimits {
        bytes: 1000,
        total: Duration::from_secs(20),
        allow_http: true,
        chosen_by,
    };
    let refused = client
        .fetch(&url, limits(ChosenBy::Tenant(TenantId::random())))
        .await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, FetchError::Refused(_)), "{refused:?}");
    assert!(
        refused.to_string().contains("outbound.allow_private"),
        "{refused}"
    );
    assert_eq!(setup.server.stats().connections_total, 0);
    let answered = client.fetch(&url, limits(ChosenBy::Process)).await;
    assert!(
        matches!(answered, Err(FetchError::Status(_))),
        "{answered:?}"
    );
}

/// Records log events, one text each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                write!(line, " {field}={value:?}").unwrap();
            },
        );
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// D48: one log line tells the operator whose address it is and what would
/// allow it.
#[tokio::test]
async fn a_refused_address_is_one_warning_with_tenant_provider_and_remedy() {
    let mut setup = Setup::responses().await;
    setup.client = client(Outbound::default());
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    setup.send("Hi").await.unwrap_err();
    let lines = log.0.lock().unwrap().clone();
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    for part in [
        "WARN",
        "tenant.id=00000000-0000-0000-0000-000000000001",
        "provider.id=\"scripted\"",
        "127.0.0.1 is a loopback address",
        "outbound.allow_private",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
