//! The claims of a token (RFC 7519).

use minichat_core::{TenantId, Timestamp, UserId};
use serde_json::{Map, Value};

use crate::rejection::Rejection;

/// Seconds by which the issuer's clock may differ from this one (PLAT-131).
const LEEWAY: f64 = 60.0;

/// The claims of one token.
#[derive(Debug)]
pub struct Claims(Map<String, Value>);

impl Claims {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Rejection> {
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|_| Rejection::Malformed)
    }

    /// The claim `iss`.
    pub fn issuer(&self) -> Result<&str, Rejection> {
        self.text("iss").ok_or(Rejection::Issuer)
    }

    /// Checks that the token is for `audience` and valid at `now`.
    pub fn check(&self, audience: &str, now: Timestamp) -> Result<(), Rejection> {
        let is_meant = match self.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        };
        if !is_meant {
            return Err(Rejection::Audience);
        }
        let now = seconds(now);
        let expires = self.0.get("exp").and_then(Value::as_f64);
        if expires.is_none_or(|at| now >= at + LEEWAY) {
            return Err(Rejection::Expired);
        }
        match self.0.get("nbf").map(Value::as_f64) {
            None => Ok(()),
            Some(Some(at)) if now + LEEWAY >= at => Ok(()),
            Some(_) => Err(Rejection::NotYetValid),
        }
    }

    /// The tenant that `claim` names.
    pub fn tenant(&self, claim: &str) -> Result<TenantId, Rejection> {
        let text = self.text(claim).ok_or(Rejection::Tenant)?;
        text.parse().map_err(|_| Rejection::Tenant)
    }

    /// The user that `claim` names. A value that is not a UUID is mapped to a UUID
    /// that is derived from issuer and subject (PLAT-132).
    pub fn user(&self, claim: &str) -> Result<UserId, Rejection> {
        let subject = self
            .text(claim)
            .filter(|subject| !subject.is_empty())
            .ok_or(Rejection::User)?;
        Ok(UserId::of_subject(self.issuer()?, subject))
    }

    /// The scopes in `claim`: a list, or text separated by spaces. If `claim` is
    /// `scope` and the token does not have it, `scp` is read. Without either claim
    /// there are no scopes.
    pub fn scopes(&self, claim: &str) -> Result<Vec<&str>, Rejection> {
        let stand_in = || (claim == "scope").then(|| self.0.get("scp")).flatten();
        match self.0.get(claim).or_else(stand_in) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split(' ').collect()),
            Some(Value::Array(several)) => several
                .iter()
                .map(|scope| scope.as_str().ok_or(Rejection::Scopes))
                .collect(),
            Some(_) => Err(Rejection::Scopes),
        }
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str()
    }
}

/// Times in claims are seconds and may have fractions.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds since 1970 are exact up to the year 2255"
)]
fn seconds(time: Timestamp) -> f64 {
    time.as_micros() as f64 / 1e6
}
