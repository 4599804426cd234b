//! The HTTP request of a call (PLAT-101, PLAT-102, PLAT-106).

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Request};
use minichat_config::Secret;
use minichat_config::tenant::ProviderAuth;

use super::body::RequestBody;
use crate::failure::Failure;
use crate::request::ProviderCall;

/// Builds the request around an encoded `body`.
pub(super) fn request(
    call: &ProviderCall<'_>,
    body: Bytes,
) -> Result<Request<RequestBody>, Failure> {
    let provider = call.provider;
    let mut request = Request::post(path(&provider.api_path, call.request.provider_model_id))
        .header(HOST, provider.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, accepted(call));
    if let Some(auth) = &provider.auth {
        let (name, value) = credential(auth, call.credential)?;
        request = request.header(name, value);
    }
    if let Some(id) = call.client_request_id {
        request = request.header("x-client-request-id", id);
    }
    if let Some(traceparent) = call.traceparent {
        request = request.header("traceparent", traceparent);
    }
    request
        .body(RequestBody::whole(body, call.started.clone()))
        .map_err(|error| Failure::misconfigured(&error))
}

const fn accepted(call: &ProviderCall<'_>) -> &'static str {
    if call.request.is_streamed {
        "text/event-stream"
    } else {
        "application/json"
    }
}

/// The header that carries the credential, marked as sensitive so that it is
/// never printed.
pub(super) fn credential(
    auth: &ProviderAuth,
    secret: Option<&Secret>,
) -> Result<(HeaderName, HeaderValue), Failure> {
    let name = if auth.header.eq_ignore_ascii_case("authorization") {
        AUTHORIZATION
    } else {
        HeaderName::from_bytes(auth.header.as_bytes())
            .map_err(|error| Failure::misconfigured(&error))?
    };
    let secret = secret.ok_or_else(|| Failure::misconfigured(&"the credential is missing"))?;
    let text = format!("{}{}", auth.prefix, secret.expose());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(text))
        .map_err(|error| Failure::misconfigured(&error))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// `api_path` with `{model}` replaced by the path-escaped model (PLAT-101).
fn path(api_path: &str, model: &str) -> String {
    match api_path.split_once("{model}") {
        None => api_path.to_owned(),
        Some((before, after)) => {
            let mut path = String::with_capacity(api_path.len() + model.len());
            path.push_str(before);
            push_escaped(&mut path, model);
            path.push_str(&self::path(after, model));
            path
        }
    }
}

/// Appends `text` with every byte escaped except RFC 3986's unreserved
/// characters.
fn push_escaped(path: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push(char::from(HEX[usize::from(byte >> 4)]));
            path.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    /// PLAT-101
    #[test]
    fn the_model_is_escaped_into_the_path() {
        let azure = "/openai/deployments/{model}/responses?api-version=2025-01-01";
        assert_eq!(
            path(azure, "gpt 5/ü"),
            "/openai/deployments/gpt%205%2F%C3%BC/responses?api-version=2025-01-01"
        );
        assert_eq!(path("/v1/responses", "m"), "/v1/responses");
    }
}
