//! Trusted certificates and proxies (D47).

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minichat_config::outbound::{Outbound, Proxies};
use minichat_config::tenant::Scheme;
use minichat_config::{AllowPrivate, Secret};
use minichat_provider::{FailureKind, check_ca_file};
use tempfile::TempDir;

use crate::servers::{Authority, Proxy};
use crate::support::{Setup, client};

/// A name that only the proxies of these tests can reach.
const ELSEWHERE: &str = "models.example.com";

fn trusting(ca_file: &Path) -> Outbound {
    Outbound {
        allow_private: AllowPrivate::everything(),
        ca_file: Some(ca_file.to_owned()),
        ..Outbound::default()
    }
}

fn through(url: &str, bypass: &str) -> Outbound {
    let url = Some(Secret::new(url));
    Outbound {
        proxies: Proxies {
            http: url.clone(),
            https: url,
            bypass: bypass.to_owned(),
        },
        ..Outbound::default()
    }
}

/// A provider behind TLS at `127.0.0.1`, and an empty directory for the file of
/// trusted certificates.
async fn behind_tls(authority: &Authority, name: &str) -> (Setup, TempDir, std::path::PathBuf) {
    let mut setup = Setup::responses().await;
    let tls = authority.tls_before(setup.server.addr, name).await;
    setup.provider.scheme = Scheme::Https;
    setup.provider.port = tls.port();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ca.crt");
    (setup, directory, file)
}

/// D47
#[tokio::test]
async fn a_certificate_of_the_bundle_is_believed_and_no_other() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (mut setup, _directory, file) = behind_tls(&ours, "127.0.0.1").await;
    for (bundle, is_believed) in [
        (theirs.pem(), false),
        (ours.pem(), true),
        (theirs.pem() + &ours.pem(), true),
    ] {
        std::fs::write(&file, bundle).unwrap();
        setup.client = client(trusting(&file));
        let answer = setup.send("PING").await;
        assert_eq!(answer.is_ok(), is_believed, "{answer:?}");
        if let Err(failure) = answer {
            assert_eq!(failure.kind, FailureKind::Connect);
            assert!(failure.detail.contains("certificate"), "{failure:?}");
        }
    }
    setup.client = client(Outbound {
        ca_file: None,
        ..trusting(&file)
    });
    assert_eq!(
        setup.send("PING").await.unwrap_err().kind,
        FailureKind::Connect
    );
}

/// D47: a trusted certificate must still be for the host.
#[tokio::test]
async fn a_certificate_of_another_host_is_refused() {
    let ours = Authority::new();
    let (mut setup, _directory, file) = behind_tls(&ours, ELSEWHERE).await;
    std::fs::write(&file, ours.pem()).unwrap();
    setup.client = client(trusting(&file));
    assert_eq!(
        setup.send("PING").await.unwrap_err().kind,
        FailureKind::Connect
    );
}

/// D47
#[tokio::test]
async fn a_changed_bundle_is_read_again_and_a_broken_one_changes_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (mut setup, _directory, file) = behind_tls(&ours, "127.0.0.1").await;
    std::fs::write(&file, theirs.pem()).unwrap();
    setup.client = client(trusting(&file));
    assert!(setup.send("PING").await.is_err());
    std::fs::write(&file, theirs.pem() + &ours.pem()).unwrap();
    setup.send("PING").await.unwrap();
    for broken in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&file, broken).unwrap();
        assert!(check_ca_file(&file).is_err(), "{broken:?}");
        // A new connection for each call: a kept one would prove nothing.
        setup
            .server
            .push_scenario(minichat_scripted_provider::Scenario {
                close: true,
                ..minichat_scripted_provider::Scenario::default()
            });
        setup.send("PING").await.unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    assert!(
        check_ca_file(&file)
            .unwrap_err()
            .to_string()
            .starts_with("cannot be read: ")
    );
    setup.send("PING").await.unwrap();
}

async fn ask_through(
    setup: &mut Setup,
    outbound: Outbound,
) -> Result<String, minichat_provider::Failure> {
    setup.client = client(outbound);
    setup.send("PING").await.map(|answer| answer.text)
}

/// D47: a name that only the proxy can resolve.
#[tokio::test]
async fn plain_calls_go_through_a_tunnel_with_the_proxy_s_credentials() {
    let mut setup = Setup::responses().await;
    let proxy = Proxy::before(setup.server.addr).await;
    setup.provider.host = ELSEWHERE.to_owned();
    setup.provider.port = 8443;
    let url = format!("http://me:p%40ss@{}", proxy.address);
    let answer = ask_through(&mut setup, through(&url, "")).await;
    assert_eq!(answer.unwrap(), "PONG");
    let heads = proxy.heads();
    let [head] = heads.as_slice() else {
        panic!("{heads:?}");
    };
    assert!(
        head.starts_with("CONNECT models.example.com:8443 HTTP/1.1\r\n"),
        "{head}"
    );
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("\r\nhost: models.example.com:8443\r\n"),
        "{head}"
    );
    let basic = BASE64_STANDARD.encode("me:p@ss").to_ascii_lowercase();
    assert!(
        head.contains(&format!("\r\nproxy-authorization: basic {basic}\r\n")),
        "{head}"
    );
    let request = setup.server.requests().pop().unwrap();
    assert!(!request.headers.contains_key("proxy-authorization"));
    assert_eq!(request.headers["host"], "models.example.com:8443");
}

/// D47: TLS through the tunnel, also when the proxy itself speaks TLS.
#[tokio::test]
async fn encrypted_calls_go_through_a_proxy_that_may_be_encrypted_too() {
    let ours = Authority::new();
    let (mut setup, _directory, file) = behind_tls(&ours, ELSEWHERE).await;
    std::fs::write(&file, ours.pem()).unwrap();
    let provider = SocketAddr::from(([127, 0, 0, 1], setup.provider.port));
    setup.provider.host = ELSEWHERE.to_owned();
    setup.provider.port = 443;
    let proxy = Proxy::before(provider).await;
    let encrypted = ours.tls_before(proxy.address, "127.0.0.1").await;
    for (calls, url) in [
        (1, format!("http://{}", proxy.address)),
        (2, format!("https://{encrypted}")),
    ] {
        let outbound = Outbound {
            ca_file: Some(file.clone()),
            ..through(&url, "")
        };
        assert_eq!(
            ask_through(&mut setup, outbound).await.unwrap(),
            "PONG",
            "{url}"
        );
        assert_eq!(proxy.heads().len(), calls);
    }
    let without_trust = through(&format!("https://{encrypted}"), "");
    let failure = ask_through(&mut setup, without_trust).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connect);
}

/// D47: the error describes what went wrong at the proxy and does not contain
/// its password.
#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    for (status, said) in [
        (
            "407 Proxy Authentication Required",
            "(407): write user and password into outbound.proxy",
        ),
        (
            "403 Forbidden",
            "refused to connect to models.example.com:80: 403 Forbidden",
        ),
        ("502 Bad Gateway", "502 Bad Gateway"),
    ] {
        let mut setup = Setup::responses().await;
        let proxy = Proxy::answering(setup.server.addr, status).await;
        setup.provider.host = ELSEWHERE.to_owned();
        setup.provider.port = 80;
        let url = format!("http://me:s3cret@{}", proxy.address);
        let failure = ask_through(&mut setup, through(&url, ""))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Connect);
        assert!(failure.detail.contains(said), "{failure:?}");
        assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
        assert!(!failure.message.contains("proxy"), "{failure:?}");
        assert!(!setup.started.get());
        assert_eq!(setup.server.stats().connections_total, 0);
    }
}

/// D47
#[tokio::test]
async fn what_is_listed_and_loopback_go_without_a_proxy() {
    let mut setup = Setup::responses().await;
    let proxy = Proxy::before(setup.server.addr).await;
    let url = format!("http://{}", proxy.address);
    let allowed = |bypass| Outbound {
        allow_private: AllowPrivate::everything(),
        ..through(&url, bypass)
    };
    for (host, bypass) in [("127.0.0.1", ""), ("localhost", ""), ("0x7f.1", "")] {
        setup.provider.host = host.to_owned();
        ask_through(&mut setup, allowed(bypass)).await.unwrap();
        assert_eq!(proxy.heads(), [""; 0], "{host}");
    }
    setup.provider.host = ELSEWHERE.to_owned();
    for (bypass, heads) in [
        ("example.com", 0),
        (".example.com,10.0.0.0/8", 0),
        ("*", 0),
        ("example.org", 1),
    ] {
        // Without the proxy the name cannot be resolved.
        let answer = ask_through(&mut setup, allowed(bypass)).await;
        assert_eq!(answer.is_ok(), heads == 1, "{bypass}: {answer:?}");
        assert_eq!(proxy.heads().len(), heads, "{bypass}");
    }
}

/// D48: even if the proxy could reach it.
#[tokio::test]
async fn a_proxy_is_never_asked_for_what_may_not_be_called() {
    let mut setup = Setup::responses().await;
    let proxy = Proxy::before(setup.server.addr).await;
    let url = format!("http://{}", proxy.address);
    for host in [
        "10.0.0.5",
        "0xa000005",
        "[fd12::1]",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "vllm.models.svc",
        "vllm.models.svc.cluster.local",
        "metadata.google.internal",
        "vllm",
        "127.0.0.1",
        "localhost",
    ] {
        setup.provider.host = host.to_owned();
        let failure = ask_through(&mut setup, through(&url, ""))
            .await
            .unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::RefusedAddress,
            "{host}: {failure:?}"
        );
    }
    assert_eq!(proxy.heads(), [""; 0]);
    setup.provider.host = "10.0.0.5".to_owned();
    let allowed = Outbound {
        allow_private: "10.0.0.0/8".parse().unwrap(),
        ..through(&url, "")
    };
    assert_eq!(ask_through(&mut setup, allowed).await.unwrap(), "PONG");
}
