//! Where webhooks may be, and how they are reached.

use std::net::SocketAddr;
use std::sync::Arc;

use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use minichat_tests::webhook_receiver::WebhookReceiver;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::{USAGE, turns};

/// A proxy that leads every tunnel to `target`.
async fn proxy(target: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(tunnel(client, target));
        }
    });
    Ok(address)
}

async fn tunnel(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    if !head.starts_with(b"CONNECT billing.example.com:8080 ") {
        return Ok(());
    }
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    let mut server = TcpStream::connect(target).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Speaks TLS with a certificate of its own authority before `target`; also returns the
/// certificate to trust.
async fn tls_before(target: SocketAddr) -> anyhow::Result<(SocketAddr, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&key, &authority)?;
    let chain = vec![CertificateDer::from_pem_slice(
        certificate.pem().as_bytes(),
    )?];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(target).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok((address, authority.pem()))
}

on_each_database! {
    /// PLAT-43, D48: a receiver whose certificate is from an authority that only
    /// `outbound.ca_file` has; without it nothing is sent.
    async fn a_webhook_with_a_certificate_of_ones_own_authority_is_trusted(env) {
        let receiver = WebhookReceiver::start().await?;
        let (address, authority) = tls_before(receiver.addr).await?;
        let provider = ScriptedProvider::start().await?;
        let url = format!("https://{address}{USAGE}");
        let tenant = Tenant::new("acme", provider.addr)
            .with_webhook("usageSink", &json!({"url": url}));
        let stack = env.serve(&[&tenant]).await?;
        turns(&stack.new_user(&tenant)?, 1).await?;
        stack.eventually("distrusted", async || {
            let configz = stack.configz(&tenant).await?;
            Ok(configz["sinks"]["usage"]["last_error"].to_string().contains("certificate"))
        }).await?;
        stack.stop().await?;
        assert_eq!(receiver.deliveries().len(), 0);
        let file = env.file("authority.pem");
        std::fs::write(&file, authority)?;
        let settings = format!("MINICHAT_OUTBOUND_CA_FILE={}", file.display());
        let stack = env.serve_with(&[&tenant], &settings).await?;
        let deliveries = receiver.deliveries_at_least(1).await?;
        assert_eq!(deliveries[0].json()?["tenant_id"], tenant.id.to_string());
        drop(stack);
    }

    /// D47: a name that only the proxy can resolve.
    async fn a_webhook_is_reached_through_the_proxy(env) {
        let receiver = WebhookReceiver::start().await?;
        let proxy = proxy(receiver.addr).await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr).with_webhook(
            "usageSink",
            &json!({"url": format!("http://billing.example.com:8080{USAGE}")}),
        );
        let settings = format!("MINICHAT_OUTBOUND_PROXY=http://{proxy}");
        let stack = env.serve_with(&[&tenant], &settings).await?;
        turns(&stack.new_user(&tenant)?, 1).await?;
        let deliveries = receiver.deliveries_at_least(1).await?;
        assert_eq!(deliveries[0].header("host"), "billing.example.com:8080");
    }

    /// D48: without a permission for loopback, a webhook there is not called.
    async fn a_webhook_at_a_private_address_is_refused(env) {
        let receiver = WebhookReceiver::start().await?;
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        // The provider's address is allowed, that of the webhook is not.
        let settings = "MINICHAT_OUTBOUND_ALLOW_PRIVATE=127.0.0.1/32";
        let stack = env.serve_with(&[&tenant], settings).await?;
        let url = format!("http://127.0.0.2:{}{USAGE}", receiver.addr.port());
        let manifest = tenant.clone().with_webhook("usageSink", &json!({"url": url})).manifest();
        stack.write_manifest(&tenant.name, &manifest)?;
        stack.eventually("refused", async || {
            let entry = stack.configz(&tenant).await?.to_string();
            Ok(entry.contains("127.0.0.2") && entry.contains("allow_private"))
        }).await?;
        turns(&stack.new_user(&tenant)?, 1).await?;
        assert_eq!(receiver.connections(), 0);
    }
}
