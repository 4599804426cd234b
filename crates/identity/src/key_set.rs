//! The keys of one issuer (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::ecdsa::signature::Verifier as _;
use p521::ecdsa::{Signature as P521Signature, VerifyingKey as P521Key};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

/// Maximum number of keys of one issuer. A token without `kid` is checked against
/// each of them.
const MAX_KEYS: usize = 64;

/// The text is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set is no JSON object with a list `keys`: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the key set has no key for the signatures RS, PS, ES and EdDSA")]
    Empty,
}

/// Public keys that verify signatures, ready for use.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one algorithm for which the key may be used; `None`: all algorithms of
    /// its type.
    algorithm: Option<String>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    /// P-521, which `ring` does not support.
    P521(Box<P521Key>),
    Ed25519(Vec<u8>),
}

/// The algorithms of PLAT-131 by their names in RFC 7518. All other names are
/// refused, including `none` and HMAC.
#[derive(Clone, Copy)]
pub(crate) enum Algorithm {
    Rsa(&'static RsaParameters),
    P256,
    P384,
    P521,
    Ed25519,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            "ES512" => Self::P521,
            "EdDSA" | "Ed25519" => Self::Ed25519,
            _ => return None,
        })
    }
}

/// The members of RFC 7517 that are used here.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct KeyDocument {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of other types and for other uses are
    /// ignored, as RFC 7517 requires.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let document: Document = serde_json::from_slice(json)?;
        let keys: Vec<_> = document
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value(key).ok())
            .filter_map(Key::of)
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        Ok(Self(keys))
    }

    /// Whether a key with the given `id` (without an `id`: any key) made the
    /// signature. `None` if there is no such key.
    pub(crate) fn verifies(
        &self,
        id: Option<&str>,
        name: &str,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Option<bool> {
        let mut outcomes = self
            .0
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .filter(|key| key.algorithm.as_deref().is_none_or(|only| only == name))
            .filter_map(|key| key.public.verifies(algorithm, message, signature))
            .peekable();
        outcomes.peek()?;
        Some(outcomes.any(|verified| verified))
    }
}

impl Key {
    fn of(document: KeyDocument) -> Option<Self> {
        let verifies = document.usage.is_none_or(|usage| usage == "sig")
            && document
                .key_ops
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !verifies {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let public = match (document.kty.as_str(), document.crv.as_deref()) {
            ("RSA", _) => Public::Rsa(RsaPublicKeyComponents {
                n: without_leading_zeros(bytes(document.n)?),
                e: without_leading_zeros(bytes(document.e)?),
            }),
            ("EC", Some("P-256")) => Public::P256(point(&bytes(document.x)?, &bytes(document.y)?)),
            ("EC", Some("P-384")) => Public::P384(point(&bytes(document.x)?, &bytes(document.y)?)),
            ("EC", Some("P-521")) => {
                let point = point(&bytes(document.x)?, &bytes(document.y)?);
                Public::P521(Box::new(P521Key::from_sec1_bytes(&point).ok()?))
            }
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes(document.x)?),
            _ => return None,
        };
        Some(Self {
            id: document.kid,
            algorithm: document.alg,
            public,
        })
    }
}

/// Some issuers prepend a zero byte, as DER does for positive numbers.
fn without_leading_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

/// The uncompressed form of SEC 1.
fn point(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

impl Public {
    /// `None` if the key's type does not match the algorithm. So a public key is
    /// never used as a shared secret.
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        let verified = match (self, algorithm) {
            (Self::Rsa(key), Algorithm::Rsa(parameters)) => {
                key.verify(parameters, message, signature).is_ok()
            }
            (Self::P256(key), Algorithm::P256) => {
                verified_by(&ECDSA_P256_SHA256_FIXED, key, message, signature)
            }
            (Self::P384(key), Algorithm::P384) => {
                verified_by(&ECDSA_P384_SHA384_FIXED, key, message, signature)
            }
            (Self::P521(key), Algorithm::P521) => P521Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                verified_by(&ED25519, key, message, signature)
            }
            _ => return None,
        };
        Some(verified)
    }
}

fn verified_by(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .is_ok()
}
