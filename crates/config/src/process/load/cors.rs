//! `server.cors.*` (API-28).

use super::Settings;
use crate::process::types::{Allowed, Cors};

const ORIGINS: &str = "server.cors.allowed_origins";
const METHODS: &str = "server.cors.allowed_methods";
const HEADERS: &str = "server.cors.allowed_headers";
const CREDENTIALS: &str = "server.cors.allow_credentials";

/// Methods that some operation has, and the one of preflights.
const KNOWN_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Checks every key even if CORS is off, so that turning it on later reveals no new
/// errors.
pub(super) fn cors(settings: &mut Settings) -> Option<Cors> {
    let origins = allowed(
        settings,
        ORIGINS,
        is_origin,
        "must be `*`, or origins such as `https://chat.example.com`, without path, separated by commas",
    );
    let methods = methods(settings);
    let headers = allowed(
        settings,
        HEADERS,
        is_header_name,
        "must be `*`, or names of headers, separated by commas",
    );
    let cors = Cors {
        origins: lower_case(origins),
        methods,
        headers: lower_case(headers),
        credentials: settings.boolean(CREDENTIALS),
        max_age: settings.seconds("server.cors.max_age_secs"),
    };
    settings.require(
        !(cors.credentials && cors.origins == Allowed::Any),
        CREDENTIALS,
        "needs named origins: write those that may in server.cors.allowed_origins, which is `*`",
    );
    settings.boolean("server.cors.enabled").then_some(cors)
}

fn methods(settings: &mut Settings) -> Vec<String> {
    let methods = settings.texts(METHODS);
    settings.require(
        !methods.is_empty()
            && methods
                .iter()
                .all(|name| KNOWN_METHODS.contains(&name.as_str())),
        METHODS,
        &format!(
            "must be some of {}, separated by commas",
            KNOWN_METHODS.join(", ")
        ),
    );
    methods
}

fn allowed(
    settings: &mut Settings,
    key: &str,
    is_valid: impl Fn(&str) -> bool,
    message: &str,
) -> Allowed {
    let texts = settings.texts(key);
    if texts == ["*"] {
        return Allowed::Any;
    }
    let is_given = !texts.is_empty() || key == HEADERS;
    settings.require(
        is_given && texts.iter().all(|text| is_valid(text)),
        key,
        message,
    );
    Allowed::Only(texts)
}

/// Lower case: browsers write origins in lower case, and header names are compared
/// in lower case.
fn lower_case(allowed: Allowed) -> Allowed {
    match allowed {
        Allowed::Any => Allowed::Any,
        Allowed::Only(texts) => {
            Allowed::Only(texts.iter().map(|text| text.to_ascii_lowercase()).collect())
        }
    }
}

/// Scheme and host, perhaps with a port; no path, not even `/`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return false;
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    is_scheme && is_host
}

fn is_header_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}
