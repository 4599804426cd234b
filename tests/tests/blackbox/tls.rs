//! TLS of the API (PLAT-168).

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use minichat_cluster::Authority;
use minichat_dataplane::ask::{Question, ask, header};
use minichat_tests::harness::{Env, Stack};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::ScriptedProvider;
use uuid::Uuid;

/// Writes the authority of a new certificate for this machine and returns its file.
fn renew(env: &Env, name: &str) -> anyhow::Result<PathBuf> {
    let authority = Authority::create()?;
    let identity = authority.server(&["localhost"], &[Ipv4Addr::LOCALHOST.into()])?;
    // As the kubelet does it: under another name, then in place.
    for (file, text) in [
        ("tls.crt", &identity.certificate),
        ("tls.key", &identity.key),
    ] {
        let unfinished = env.file("unfinished");
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, env.file(file))?;
    }
    let file = env.file(name);
    fs::write(&file, authority.certificate())?;
    Ok(file)
}

fn settings(env: &Env) -> String {
    let files = [("CERT", "tls.crt"), ("KEY", "tls.key")];
    let setting = |(name, file)| {
        format!(
            "MINICHAT_SERVER_TLS_{name}_FILE={}",
            env.file(file).display()
        )
    };
    files.map(setting).join("\n")
}

async fn asked(
    stack: &Stack,
    tenant: &Tenant,
    scheme: &str,
    ca_file: Option<PathBuf>,
) -> anyhow::Result<String> {
    let tenant = header(&format!("X-Tenant-Id: {}", tenant.id))?;
    let user = header(&format!("X-User-Id: {}", Uuid::new_v4()))?;
    let question = Question {
        url: format!("{scheme}://{}/mini-chat/v1", stack.app_addr()).parse()?,
        ca_file,
        headers: [tenant, user].into_iter().collect(),
        message: "PING".to_owned(),
    };
    let mut out = Vec::new();
    ask(&question, &mut out).await?;
    Ok(String::from_utf8(out)?)
}

on_each_database! {
    /// PLAT-168, K8S-70
    async fn the_api_streams_over_tls_and_takes_a_renewed_certificate(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        let first = renew(&env, "first.pem")?;
        let stack = env.serve_with(&[&tenant], &settings(&env)).await?;
        let answer = asked(&stack, &tenant, "https", Some(first.clone())).await?;
        assert!(answer.contains("model "), "{answer}");

        let unknown = asked(&stack, &tenant, "https", None).await.unwrap_err();
        assert!(format!("{unknown:#}").contains("not trusted"), "{unknown:#}");
        asked(&stack, &tenant, "http", None).await.unwrap_err();

        let second = renew(&env, "second.pem")?;
        stack.eventually("renewed", async || {
            Ok(asked(&stack, &tenant, "https", Some(second.clone())).await.is_ok())
        }).await?;
        asked(&stack, &tenant, "https", Some(first)).await.unwrap_err();
    }

    /// PLAT-151, PLAT-168
    async fn a_certificate_that_cannot_be_used_stops_the_start_in_words(env) {
        let provider = ScriptedProvider::start().await?;
        let tenant = Tenant::new("acme", provider.addr);
        renew(&env, "authority.pem")?;
        fs::write(env.file("tls.key"), "no key")?;
        let refused = env.serve_with(&[&tenant], &settings(&env)).await.err();
        let refused = format!("{:#}", refused.context("it serves")?);
        ensure!(refused.contains("server.tls") && refused.contains("tls.key"), "{refused}");
        ensure!(refused.contains("the private key cannot be read"), "{refused}");
        let certificate = settings(&env);
        let certificate = certificate.lines().next().unwrap_or_default();
        let refused = env.serve_with(&[&tenant], certificate).await.err();
        let refused = format!("{:#}", refused.context("it serves")?);
        ensure!(refused.contains("server.tls.cert_file: needs `server.tls.key_file`"), "{refused}");
    }
}
