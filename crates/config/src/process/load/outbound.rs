//! `outbound.*` (D47, D48).

use std::path::PathBuf;

use super::Settings;
use crate::outbound::proxy::{is_bypass_entry, is_proxy_url};
use crate::outbound::{AllowPrivate, Outbound, Proxies};
use crate::process::types::{Auth, TenantSource};
use crate::secret::Secret;

const ALLOW_PRIVATE: &str = "outbound.allow_private";
const PROXY: &str = "outbound.proxy";
const NO_PROXY: &str = "outbound.no_proxy";

pub(super) fn outbound(
    settings: &mut Settings,
    auth: &Auth,
    source: Option<&TenantSource>,
) -> Outbound {
    let ca_file = settings.text("outbound.ca_file");
    Outbound {
        allow_private: allow_private(settings, auth, source),
        ca_file: (!ca_file.is_empty()).then(|| PathBuf::from(ca_file)),
        proxies: proxies(settings),
    }
}

/// In development all private addresses are allowed by default: the model server
/// often runs on the same machine, and the author of the manifests can call it anyway.
fn allow_private(
    settings: &mut Settings,
    auth: &Auth,
    source: Option<&TenantSource>,
) -> AllowPrivate {
    if !settings.given.contains_key(ALLOW_PRIVATE) {
        let is_development =
            matches!(auth, Auth::Dev(_)) || matches!(source, Some(TenantSource::Manifests(_)));
        return if is_development {
            AllowPrivate::everything()
        } else {
            AllowPrivate::NOTHING
        };
    }
    let entries = settings.texts(ALLOW_PRIVATE);
    AllowPrivate::parse(entries.iter().map(String::as_str)).unwrap_or_else(|error| {
        settings.faults.add(ALLOW_PRIVATE, error.to_string());
        AllowPrivate::NOTHING
    })
}

fn proxies(settings: &mut Settings) -> Proxies {
    let (http, https) = if settings.given.contains_key(PROXY) {
        let url = settings.secret(PROXY);
        let url = proxy(settings, PROXY, url);
        (url.clone(), url)
    } else {
        (
            proxy_of_environment(settings, "HTTP_PROXY"),
            proxy_of_environment(settings, "HTTPS_PROXY"),
        )
    };
    Proxies {
        http,
        https,
        bypass: bypass(settings),
    }
}

fn bypass(settings: &mut Settings) -> String {
    if !settings.given.contains_key(NO_PROXY) {
        // As in other programs, invalid entries of `NO_PROXY` are ignored.
        return variable(settings, "NO_PROXY").map_or_else(String::new, |(_, list)| list);
    }
    let entries = settings.texts(NO_PROXY);
    settings.require(
        entries.iter().all(|entry| is_bypass_entry(entry)),
        NO_PROXY,
        "must be networks such as `10.0.0.0/8`, host names such as `.internal`, or `*`",
    );
    entries.join(",")
}

/// The URL in the variable `name`, or else in `ALL_PROXY`. Many tools omit the scheme.
fn proxy_of_environment(settings: &mut Settings, name: &str) -> Option<Secret> {
    let given = variable(settings, name).or_else(|| variable(settings, "ALL_PROXY"));
    let (name, url) = given?;
    let url = if url.contains("://") {
        url
    } else {
        format!("http://{url}")
    };
    proxy(settings, &name, url)
}

/// The name and the value of the variable `name`, in upper or lower case, if it is set
/// and not empty.
fn variable(settings: &Settings, name: &str) -> Option<(String, String)> {
    let names = [name.to_owned(), name.to_ascii_lowercase()];
    names.into_iter().find_map(|name| {
        let value = settings.env.get(&name)?.trim().to_owned();
        (!value.is_empty()).then_some((name, value))
    })
}

fn proxy(settings: &mut Settings, key: &str, url: String) -> Option<Secret> {
    if url.is_empty() {
        return None;
    }
    settings.require(
        is_proxy_url(&url),
        key,
        "must be a URL such as `http://proxy.example.com:3128`; a user and a password stand before the host, with `%40` for `@`. The key outbound.proxy wins over the environment",
    );
    Some(Secret::new(url))
}
