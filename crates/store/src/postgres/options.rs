//! What the driver is told of each server.

use std::path::Path;

use minichat_config::PostgresUrl;
use minichat_config::postgres_url::{Host, SslMode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::StoreError;

/// The options of a connection to each host of `url`, with `settings` for each
/// of its sessions; what the URL itself says of them wins.
pub(super) fn of_url(
    url: &PostgresUrl,
    settings: &[(&'static str, String)],
    statements: usize,
) -> Vec<PgConnectOptions> {
    let options = url.hosts.iter();
    let options = options.map(|host| of_host(url, host, settings));
    options
        .map(|options| options.statement_cache_capacity(statements))
        .collect()
}

fn of_host(
    url: &PostgresUrl,
    host: &Host,
    settings: &[(&'static str, String)],
) -> PgConnectOptions {
    let PostgresUrl {
        hosts: _,
        user,
        password,
        database,
        application_name,
        options,
        tls,
    } = url;
    let is_socket = host.name.starts_with('/');
    let mut wanted = PgConnectOptions::new()
        .host(&host.name)
        .port(host.port)
        .application_name(application_name.as_deref().unwrap_or("minichat"))
        // No floating-point number is stored, and poolers refuse the setting.
        .extra_float_digits(None)
        .ssl_mode(if is_socket {
            PgSslMode::Disable
        } else {
            mode(tls.mode)
        })
        .disable_statement_logging();
    // An empty list would be sent as well, and poolers refuse the parameter.
    if !(settings.is_empty() && options.is_empty()) {
        wanted = wanted
            .options(settings.iter().map(|(name, value)| (name, value)))
            .options(options.iter().map(|(name, value)| (name, value)));
    }
    if is_socket {
        wanted = wanted.socket(&host.name);
    }
    if let Some(user) = user {
        wanted = wanted.username(user);
    }
    if let Some(password) = password {
        wanted = wanted.password(password.expose());
    }
    if let Some(database) = database {
        wanted = wanted.database(database);
    }
    if let Some(file) = &tls.root_cert {
        wanted = wanted.ssl_root_cert(file);
    }
    if let Some((cert, key)) = &tls.client {
        wanted = wanted.ssl_client_cert(cert).ssl_client_key(key);
    }
    wanted
}

const fn mode(mode: SslMode) -> PgSslMode {
    match mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    }
}

/// Reads the files that `url` names, so that a fault in one of them names the
/// file. The driver reads them again for each connection.
pub(crate) fn check_files(key: &str, url: &PostgresUrl) -> Result<(), StoreError> {
    let unfit = |fault: String| StoreError::Url(format!("database.{key}: {fault}"));
    check(url).map_err(unfit)
}

fn check(url: &PostgresUrl) -> Result<(), String> {
    if let Some(file) = &url.tls.root_cert {
        certificates("sslrootcert", file)?;
    }
    if let Some((cert, key)) = &url.tls.client {
        certificates("sslcert", cert)?;
        PrivateKeyDer::from_pem_slice(&read("sslkey", key)?)
            .map_err(|error| unfit("sslkey", key, &format!("holds no private key: {error}")))?;
    }
    Ok(())
}

fn certificates(name: &str, file: &Path) -> Result<(), String> {
    let text = read(name, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unfit(name, file, "holds no certificate")),
        Ok(_) => Ok(()),
        Err(error) => Err(unfit(name, file, &error.to_string())),
    }
}

fn read(name: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| unfit(name, file, &error.to_string()))
}

fn unfit(name: &str, file: &Path, fault: &str) -> String {
    format!("{name}: {}: {fault}", file.display())
}
