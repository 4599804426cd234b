//! Who is calling (API-10, API-11): the only place where tenant and user ids
//! come from. The process's configuration fixes the mode (PLAT-130).

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};
use minichat_config::process::types::SharedSecret;
use minichat_config::process::{Auth, Dev, IpNetwork, TrustedHeaders};
use minichat_core::{ErrorCode, TenantId, UserId};
use sha2::{Digest, Sha256};

use crate::caller::{RequesterType, Scopes};
use crate::problem::Problem;

const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
const X_SCOPES: HeaderName = HeaderName::from_static("x-scopes");

/// A caller whose tenant is not looked up yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) tenant_id: TenantId,
    pub(super) user_id: UserId,
    pub(super) requester_type: RequesterType,
    pub(super) scopes: Scopes,
}

/// Decides identities in the configured mode.
pub(super) enum Authenticator {
    /// One fixed user (PLAT-134).
    Dev(Dev),
    /// Headers of a trusted proxy (PLAT-133).
    TrustedHeaders {
        peers: Vec<IpNetwork>,
        secret: Option<SecretHeader>,
    },
}

impl Authenticator {
    pub(super) fn new(auth: &Auth) -> Self {
        match auth {
            Auth::Dev(dev) => Self::Dev(*dev),
            Auth::TrustedHeaders(TrustedHeaders {
                trusted_peers,
                shared_secret,
            }) => Self::TrustedHeaders {
                peers: trusted_peers.clone(),
                // A name that is no header name never arrives: nobody is
                // believed by it.
                secret: shared_secret.as_ref().and_then(SecretHeader::new),
            },
        }
    }

    /// The identity of a request from `peer`, or 401. `first_tenant` is whom
    /// mode `dev` serves when its configuration names nobody.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        first_tenant: impl FnOnce() -> Option<TenantId>,
    ) -> Result<Identity, Problem> {
        match self {
            Self::Dev(dev) => dev_identity(*dev, first_tenant),
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

/// A header whose right value proves the sender.
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

    /// Compares digests, so that neither the time it takes nor the length
    /// tells anything about the secret.
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

fn dev_identity(
    dev: Dev,
    first_tenant: impl FnOnce() -> Option<TenantId>,
) -> Result<Identity, Problem> {
    let tenant_id = dev
        .tenant_id
        .or_else(first_tenant)
        .ok_or_else(|| unauthenticated("No tenant is configured."))?;
    Ok(Identity {
        tenant_id,
        user_id: dev.user_id,
        requester_type: RequesterType::User,
        scopes: Scopes::ALL,
    })
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

/// Separated by spaces or commas (D33); several headers add up.
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

/// The header's value when it is there exactly once: two values for one
/// identity are a contradiction, whoever appended the second.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(ErrorCode::Unauthenticated, detail)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
