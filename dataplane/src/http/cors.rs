//! Cross-origin requests of browsers (API-28): the answers to preflights, and
//! the headers that let a page of another origin read an answer. Nothing is
//! refused here, because the browser enforces the rules.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use minichat_config::process::{self, Allowed};

/// Response headers that a page may read in addition to the safelisted ones.
const EXPOSED: HeaderValue = HeaderValue::from_static("location, retry-after, x-request-id");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// Every list of headers names it, because `*` does not include it.
const AUTHORIZATION: &str = "authorization";

/// What is allowed, as header values.
pub(super) struct Cors {
    origins: Origins,
    methods: HeaderValue,
    headers: Headers,
    credentials: bool,
    max_age: HeaderValue,
}

enum Origins {
    Any,
    Only(BTreeSet<String>),
}

enum Headers {
    Named(HeaderValue),
    /// The headers that the browser requests, because `*` is not a wildcard for
    /// requests with credentials.
    AsAsked,
}

impl Cors {
    pub(super) fn new(settings: &process::Cors) -> Self {
        let process::Cors {
            origins,
            methods,
            headers,
            credentials,
            max_age,
        } = settings;
        Self {
            origins: match origins {
                Allowed::Any => Origins::Any,
                Allowed::Only(origins) => Origins::Only(origins.iter().cloned().collect()),
            },
            methods: list(methods),
            headers: match headers {
                Allowed::Any if *credentials => Headers::AsAsked,
                Allowed::Any => Headers::Named(HeaderValue::from_static("authorization, *")),
                Allowed::Only(names) => {
                    let others = names.iter().filter(|name| *name != AUTHORIZATION).cloned();
                    let names: Vec<_> = std::iter::once(AUTHORIZATION.to_owned())
                        .chain(others)
                        .collect();
                    Headers::Named(list(&names))
                }
            },
            credentials: *credentials,
            max_age: max_age.as_secs().into(),
        }
    }

    /// The answer to a preflight, without the headers of
    /// [`Self::write_headers`]; `None` for any other request. It lists
    /// everything that is allowed, whatever the browser asks for.
    pub(super) fn preflight(&self, request: &Request) -> Option<Response> {
        let asked = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && asked.contains_key(ORIGIN)
            && asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.origin(asked.get(ORIGIN)).is_none() {
            return Some(response);
        }
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.headers(asked));
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if matches!(self.headers, Headers::AsAsked) {
            headers.append(VARY, ACCESS_CONTROL_REQUEST_HEADERS.into());
        }
        Some(response)
    }

    /// Adds headers that let a page of `origin` read the answer, if it may.
    pub(super) fn write_headers(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if matches!(self.origins, Origins::Only(_)) {
            headers.append(VARY, ORIGIN.into());
        }
        let Some(origin) = self.origin(origin) else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }

    /// The header's value for pages of `origin`; `None` if they may not read
    /// answers.
    fn origin(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(ANY),
            Origins::Only(origins) => origin
                .filter(|origin| origin.to_str().is_ok_and(|origin| origins.contains(origin)))
                .cloned(),
        }
    }

    fn headers(&self, asked: &HeaderMap) -> HeaderValue {
        let mirrored = || {
            let asked = asked.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
            HeaderValue::from_str(&format!("{AUTHORIZATION}, {asked}")).ok()
        };
        match &self.headers {
            Headers::Named(names) => names.clone(),
            Headers::AsAsked => {
                mirrored().unwrap_or_else(|| HeaderValue::from_static(AUTHORIZATION))
            }
        }
    }
}

/// The loader accepts only valid names.
fn list(names: &[String]) -> HeaderValue {
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}
