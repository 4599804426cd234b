//! Issuers of bearer tokens (PLAT-131): the process's own and those of tenants.

use crate::fault::Faults;

/// An issuer whose tokens are accepted, and the names of the claims to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The claim `iss`, exactly as the issuer writes it: a URL.
    pub issuer: String,
    /// The value that the claim `aud` must contain.
    pub audience: String,
    /// URL of the keys; `None`: the URL in the issuer's discovery document.
    pub jwks_uri: Option<String>,
    /// The claim with the tenant's id. `None`: all tokens are for the one
    /// tenant that lists the issuer.
    pub tenant_claim: Option<String>,
    /// The claim with the user.
    pub user_claim: String,
    /// The claim with the scopes.
    pub scopes_claim: String,
}

/// The claim that names the user unless another one is configured.
pub const USER_CLAIM: &str = "sub";
/// The claim that lists the scopes unless another one is configured.
pub const SCOPES_CLAIM: &str = "scope";

impl Issuer {
    /// Adds what is wrong. `path` turns the name of a field into the path of a
    /// fault.
    pub(crate) fn check(&self, path: impl Fn(&str) -> String, faults: &mut Faults) {
        let Self {
            issuer,
            audience,
            jwks_uri,
            ..
        } = self;
        faults.require(
            is_url(issuer),
            path("issuer"),
            "must be the token's claim `iss`, a URL such as `https://login.example.com`",
        );
        faults.require(
            !audience.is_empty(),
            path("audience"),
            "is required: what the token's claim `aud` must hold",
        );
        faults.require(
            jwks_uri.as_deref().is_none_or(is_url),
            path("jwks_uri"),
            "must be a URL such as `https://login.example.com/keys`",
        );
        self.check_claims(path, faults);
    }

    /// Adds what is wrong with the names of claims. Each of them has a default.
    pub(crate) fn check_claims(&self, path: impl Fn(&str) -> String, faults: &mut Faults) {
        for (key, claim) in [
            ("tenant_claim", self.tenant_claim.as_ref()),
            ("user_claim", Some(&self.user_claim)),
            ("scopes_claim", Some(&self.scopes_claim)),
        ] {
            let is_name = |claim: &String| !claim.is_empty() && !claim.contains(char::is_control);
            faults.require(
                claim.is_none_or(is_name),
                path(key),
                "must be the name of a claim",
            );
        }
    }

    /// The URL that is fetched first: the keys, or else the discovery document.
    pub fn first_fetched_url(&self) -> &str {
        self.jwks_uri.as_deref().unwrap_or(&self.issuer)
    }

    /// Whether the keys would be fetched over plain HTTP.
    pub fn is_plain_http(&self) -> bool {
        self.first_fetched_url().starts_with("http://")
    }
}

/// The host of an `http` or `https` URL, an IPv6 address in its brackets.
pub fn url_host(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let end = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    Some(&authority[..end]).filter(|host| !host.is_empty())
}

/// Whether `text` is an `http` or `https` URL with a host and neither user,
/// query, fragment nor spaces.
fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', ':'])
            && rest
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"@?#\"\\<>".contains(&b))
    })
}
