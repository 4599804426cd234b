//! The compact form of a signed token (RFC 7515).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::claims::Claims;
use crate::key_set::{Algorithm, KeySet};
use crate::rejection::Rejection;

/// Maximum length of a token in bytes. Issuers do not write longer ones.
const MAX_BYTES: usize = 16 * 1024;

/// A token that was parsed but not verified yet.
#[derive(Debug)]
pub struct Token<'a> {
    header: Header,
    /// Header and claims, in the encoded form that was signed.
    signed: &'a [u8],
    signature: Vec<u8>,
    claims: Claims,
}

/// The header. Keys and key URLs inside the token (`jwk`, `jku`, `x5c`, `x5u`) are
/// never read.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that the recipient must support. None is supported.
    crit: Option<IgnoredAny>,
}

impl<'a> Token<'a> {
    /// Reads the three parts. An algorithm that is not accepted is refused here,
    /// before any key is looked for.
    pub fn parse(text: &'a str) -> Result<Self, Rejection> {
        if text.len() > MAX_BYTES {
            return Err(Rejection::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Rejection::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Rejection::Malformed)?;
        let header: Header =
            serde_json::from_slice(&decoded(header)?).map_err(|_| Rejection::Malformed)?;
        if header.crit.is_some() {
            return Err(Rejection::Malformed);
        }
        if Algorithm::named(&header.alg).is_none() {
            return Err(Rejection::Algorithm);
        }
        Ok(Self {
            header,
            signed: signed.as_bytes(),
            signature: decoded(signature)?,
            claims: Claims::parse(&decoded(claims)?)?,
        })
    }

    /// The claims before verification. Anybody may have written them, so use them
    /// only to find the issuer whose keys verify the token.
    pub fn unverified(&self) -> &Claims {
        &self.claims
    }

    /// The claims, once one of `keys` has verified the signature.
    pub fn verified(&self, keys: &KeySet) -> Result<&Claims, Rejection> {
        let algorithm = Algorithm::named(&self.header.alg).ok_or(Rejection::Algorithm)?;
        let id = self.header.kid.as_deref();
        match keys.verifies(
            id,
            &self.header.alg,
            algorithm,
            self.signed,
            &self.signature,
        ) {
            Some(true) => Ok(&self.claims),
            // Without `kid` a newer key may be meant.
            None => Err(Rejection::UnknownKey),
            Some(false) if id.is_none() => Err(Rejection::UnknownKey),
            Some(false) => Err(Rejection::Signature),
        }
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Rejection::Malformed)
}
