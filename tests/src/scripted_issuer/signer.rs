//! Keys that sign tokens, with every algorithm of PLAT-131.

use std::fmt;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::ecdsa::SigningKey;
use p521::ecdsa::signature::Signer as _;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

/// Every algorithm that is accepted.
pub const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

/// The only RSA key of the tests, because creating one takes seconds.
const RSA: &[u8] = include_bytes!("rsa.pk8");

/// A key and the algorithm that it signs with.
pub struct Signer {
    id: String,
    algorithm: String,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(&'static str, Box<EcdsaKeyPair>),
    P521(Box<SigningKey>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    /// A new key called `id` for `algorithm`, one of [`ALGORITHMS`].
    pub fn new(id: &str, algorithm: &str) -> anyhow::Result<Self> {
        let key = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256)?,
            "RS384" => rsa(&RSA_PKCS1_SHA384)?,
            "RS512" => rsa(&RSA_PKCS1_SHA512)?,
            "PS256" => rsa(&RSA_PSS_SHA256)?,
            "PS384" => rsa(&RSA_PSS_SHA384)?,
            "PS512" => rsa(&RSA_PSS_SHA512)?,
            "ES256" => ecdsa("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)?,
            "ES384" => ecdsa("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)?,
            "ES512" => p521()?,
            "EdDSA" => ed25519()?,
            other => anyhow::bail!("no algorithm {other}"),
        };
        Ok(Self {
            id: id.to_owned(),
            algorithm: algorithm.to_owned(),
            key,
        })
    }

    /// The public key as RFC 7517 writes it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair, _) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e)})
            }
            Key::Ecdsa(curve, pair) => ec(curve, pair.public_key().as_ref()),
            Key::P521(key) => ec("P-521", key.verifying_key().to_sec1_point(false).as_bytes()),
            Key::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with `claims`.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(
            &json!({"alg": self.algorithm, "kid": self.id, "typ": "JWT"}),
            claims,
        )
    }

    /// A token with any header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        format!("{signed}.{}", encoded(self.sign(signed.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(*encoding, &random, message, &mut signature);
                signed.map(|()| signature).unwrap_or_default()
            }
            Key::Ecdsa(_, pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .unwrap_or_default(),
            Key::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, {})", self.id, self.algorithm)
    }
}

fn rsa(encoding: &'static dyn RsaEncoding) -> anyhow::Result<Key> {
    let pair = RsaKeyPair::from_pkcs8(RSA).map_err(|error| anyhow!("{error}"))?;
    Ok(Key::Rsa(Box::new(pair), encoding))
}

fn ecdsa(curve: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> anyhow::Result<Key> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
        .map_err(|_| anyhow!("no key for {curve}"))?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
        .map_err(|error| anyhow!("{error}"))?;
    Ok(Key::Ecdsa(curve, Box::new(pair)))
}

/// Any number below the order of the curve is a key.
fn p521() -> anyhow::Result<Key> {
    let mut scalar = [0; 66];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut scalar[1..])
        .map_err(|_| anyhow!("no randomness"))?;
    let key = SigningKey::from_slice(&scalar).context("no key for P-521")?;
    Ok(Key::P521(Box::new(key)))
}

fn ed25519() -> anyhow::Result<Key> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| anyhow!("no key for Ed25519"))?;
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|error| anyhow!("{error}"))?;
    Ok(Key::Ed25519(Box::new(pair)))
}

/// `point` is uncompressed: a marker, then both coordinates.
fn ec(curve: &str, point: &[u8]) -> Value {
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)})
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
