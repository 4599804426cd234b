//! The caller of a request (API-10, API-11). Tenant and user ids come from here
//! only. The configuration fixes the mode (PLAT-130). In every mode, a tenant
//! with its own issuers accepts only their tokens.

mod bearer;
mod issuer_keys;

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};
use minichat_config::process::types::SharedSecret;
use minichat_config::process::{Auth, Dev, IpNetwork, TrustedHeaders};
use minichat_core::{ErrorCode, NamespacedName, TenantId, Timestamp, UserId};
use minichat_identity::Token;
use minichat_provider::ProviderClient;
use sha2::{Digest, Sha256};

use self::bearer::Bearer;

use crate::caller::{RequesterType, Scopes};
use crate::config_source::{Listing, Tenants};
use crate::problem::Problem;

const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
const X_SCOPES: HeaderName = HeaderName::from_static("x-scopes");

/// A caller whose tenant was not looked up yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) tenant_id: TenantId,
    pub(super) user_id: UserId,
    pub(super) requester_type: RequesterType,
    pub(super) scopes: Scopes,
}

/// Identifies callers in the configured mode.
pub(super) struct Authenticator {
    mode: Mode,
    bearer: Bearer,
}

/// How requests without a bearer token are identified.
enum Mode {
    /// They are refused.
    Oidc,
    /// As one fixed user (PLAT-134).
    Dev(Dev),
    /// By the headers of a trusted proxy (PLAT-133).
    TrustedHeaders {
        peers: Vec<IpNetwork>,
        secret: Option<SecretHeader>,
    },
}

impl Authenticator {
    /// `client` fetches the keys of issuers, over plain HTTP if `allow_http` is
    /// set.
    pub(super) fn new(auth: &Auth, client: ProviderClient, allow_http: bool) -> Self {
        let mut process_issuer = None;
        let mode = match auth {
            Auth::Oidc(issuer) => {
                process_issuer.clone_from(issuer);
                Mode::Oidc
            }
            Auth::Dev(dev) => Mode::Dev(*dev),
            Auth::TrustedHeaders(TrustedHeaders {
                trusted_peers,
                shared_secret,
            }) => Mode::TrustedHeaders {
                peers: trusted_peers.clone(),
                // An invalid header name never matches, so no request is
                // trusted by it.
                secret: shared_secret.as_ref().and_then(SecretHeader::new),
            },
        };
        Self {
            mode,
            bearer: Bearer::new(process_issuer, client, allow_http),
        }
    }

    /// The identity of a request from `peer` at `now`, or 401. 503 if no key is
    /// available to check the token.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        tenants: &Tenants,
        now: Timestamp,
    ) -> Result<Identity, Problem> {
        if let Some(token) = self.token(headers, tenants)? {
            return self.bearer.identify(&token, tenants, now).await;
        }
        let identity = self.mode.identify(headers, peer, tenants)?;
        let needs_token = tenants
            .get(identity.tenant_id)
            .is_some_and(|tenant| !tenant.config.issuers.is_empty());
        if needs_token {
            return Err(unauthenticated(
                "This tenant is opened by tokens of its own issuers only.",
            ));
        }
        Ok(identity)
    }

    /// The token that decides. Outside mode `oidc`, only a token of an issuer
    /// that some tenant lists counts. Other tokens are ignored; a proxy may
    /// have passed them on.
    fn token<'h>(
        &self,
        headers: &'h HeaderMap,
        tenants: &Tenants,
    ) -> Result<Option<Token<'h>>, Problem> {
        let is_required = matches!(self.mode, Mode::Oidc);
        let Some(text) = bearer::token(headers) else {
            return if is_required {
                Err(unauthenticated("A bearer token is needed."))
            } else {
                Ok(None)
            };
        };
        let is_listed = |token: &Token<'_>| {
            let name = token.unverified().issuer();
            name.is_ok_and(|name| !matches!(tenants.listing(name), Listing::Nobody))
        };
        match Token::parse(text) {
            Ok(token) if is_required || is_listed(&token) => Ok(Some(token)),
            Err(rejection) if is_required => Err(bearer::rejected(rejection)),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

impl Mode {
    fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        tenants: &Tenants,
    ) -> Result<Identity, Problem> {
        match self {
            Self::Oidc => Err(unauthenticated("A bearer token is needed.")),
            Self::Dev(dev) => dev_identity(*dev, headers, tenants),
            Self::TrustedHeaders { peers, secret } => {
                let believed = peer.is_some_and(|peer| peers.iter().any(|n| n.contains(peer)))
                    || secret.as_ref().is_some_and(|secret| secret.is_in(headers));
                if !believed {
                    return Err(unauthenticated(
                        "The identity headers are not from a trusted peer.",
                    ));
                }
                header_identity(headers)
            }
        }
    }
}

/// A header whose value proves the sender.
pub(super) struct SecretHeader {
    name: HeaderName,
    digest: [u8; 32],
}

impl SecretHeader {
    fn new(secret: &SharedSecret) -> Option<Self> {
        Some(Self {
            name: HeaderName::from_str(&secret.header).ok()?,
            digest: Sha256::digest(secret.value.expose()).into(),
        })
    }

    /// Compares digests, so that neither the time nor the length reveals
    /// anything about the secret.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        only(headers, &self.name).is_some_and(|value| {
            let digest: [u8; 32] = Sha256::digest(value).into();
            let differing = digest
                .iter()
                .zip(&self.digest)
                .fold(0, |differing, (a, b)| differing | (a ^ b));
            differing == 0
        })
    }
}

/// D51: the header takes precedence, then the configuration, then the default
/// tenant.
fn dev_identity(dev: Dev, headers: &HeaderMap, tenants: &Tenants) -> Result<Identity, Problem> {
    let tenant_id = match chosen_tenant(headers, tenants)? {
        Some(chosen) => chosen,
        None => dev
            .tenant_id
            .or_else(|| tenants.default_id())
            .ok_or_else(|| unknown(tenants, "No tenant is configured."))?,
    };
    Ok(Identity {
        tenant_id,
        user_id: dev.user_id,
        requester_type: RequesterType::User,
        scopes: Scopes {
            erase: true,
            ..Scopes::ORDINARY
        },
    })
}

/// The tenant that `X-Tenant-Id` names, by id or as `namespace/name`.
fn chosen_tenant(headers: &HeaderMap, tenants: &Tenants) -> Result<Option<TenantId>, Problem> {
    if !headers.contains_key(X_TENANT_ID) {
        return Ok(None);
    }
    let text = only(headers, &X_TENANT_ID).and_then(|value| std::str::from_utf8(value).ok());
    let text = text.map(str::trim).unwrap_or_default();
    if let Ok(id) = text.parse() {
        return Ok(Some(id));
    }
    let name = text.parse::<NamespacedName>().map_err(|_| {
        unauthenticated("X-Tenant-Id must be one tenant's id, or its namespace/name.")
    })?;
    let detail = "No tenant of the name in X-Tenant-Id is served here.";
    let named = tenants.named(&name).map(Some);
    named.ok_or_else(|| unknown(tenants, detail))
}

fn header_identity(headers: &HeaderMap) -> Result<Identity, Problem> {
    let tenant_id = id(headers, &X_TENANT_ID)
        .ok_or_else(|| unauthenticated("X-Tenant-Id must be one UUID."))?;
    let user_id =
        id(headers, &X_USER_ID).ok_or_else(|| unauthenticated("X-User-Id must be one UUID."))?;
    Ok(Identity {
        tenant_id,
        user_id,
        requester_type: RequesterType::User,
        scopes: scopes(headers)?,
    })
}

fn id<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    std::str::from_utf8(only(headers, name)?).ok()?.parse().ok()
}

/// Separated by spaces or commas (D33). Several headers are combined.
fn scopes(headers: &HeaderMap) -> Result<Scopes, Problem> {
    let mut texts = Vec::new();
    for value in headers.get_all(X_SCOPES) {
        let text = value
            .to_str()
            .map_err(|_| unauthenticated("X-Scopes must be visible ASCII text."))?;
        texts.push(text);
    }
    Ok(Scopes::parse(
        texts.iter().flat_map(|text| text.split([' ', ','])),
    ))
}

/// The header's value if the header occurs exactly once. Two values for one
/// identity contradict each other, whoever added the second.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// 401, or 503 while a tenant is pending, whose names and issuers nobody knows.
fn unknown(tenants: &Tenants, detail: &str) -> Problem {
    if tenants.has_pending() {
        Problem::not_served_yet()
    } else {
        unauthenticated(detail)
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(ErrorCode::Unauthenticated, detail)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
