use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minichat_core::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_900_000_000;

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn keys(&self, kid: &str) -> KeySet {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]});
        KeySet::parse(set.to_string().as_bytes()).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn claims(change: &Value) -> Claims {
    let mut all =
        json!({"iss": "https://a", "aud": "minichat", "exp": NOW + 600, "sub": "auth0|x"});
    for (key, value) in change.as_object().unwrap() {
        all[key] = value.clone();
    }
    Claims::parse(all.to_string().as_bytes()).unwrap()
}

fn check(change: &Value) -> Result<(), Rejection> {
    claims(change).check("minichat", Timestamp::from_micros(NOW * 1_000_000))
}

/// PLAT-131
#[test]
fn a_signature_counts_only_by_the_named_key_of_the_issuer() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let text = signer.token(&json!({"alg": "EdDSA", "kid": "1"}), &json!({"iss": "a"}));
    let token = Token::parse(&text).unwrap();
    assert!(token.verified(&signer.keys("1")).is_ok());
    let by = |keys| token.verified(&keys).unwrap_err();
    assert_eq!(by(signer.keys("2")), Rejection::UnknownKey);
    assert_eq!(by(stranger.keys("1")), Rejection::Signature);
}

/// PLAT-131: the public key as a shared secret must never be tried either.
#[test]
fn none_hmac_and_critical_extensions_are_refused_before_any_key() {
    let signer = Signer::new();
    for alg in ["none", "None", "", "HS256", "HS384", "HS512"] {
        let text = signer.token(&json!({"alg": alg, "kid": "1"}), &json!({}));
        assert_eq!(
            Token::parse(&text).unwrap_err(),
            Rejection::Algorithm,
            "{alg}"
        );
    }
    let text = signer.token(&json!({"alg": "EdDSA", "crit": ["b64"]}), &json!({}));
    assert_eq!(Token::parse(&text).unwrap_err(), Rejection::Malformed);
    let text = signer.token(&json!({"alg": "ES256", "kid": "1"}), &json!({}));
    let other_kind = Token::parse(&text).unwrap();
    assert_eq!(
        other_kind.verified(&signer.keys("1")).unwrap_err(),
        Rejection::UnknownKey
    );
}

/// PLAT-131
#[test]
fn audience_and_times_are_checked_with_a_minute_of_leeway() {
    for good in [
        json!({}),
        json!({"aud": ["else", "minichat"]}),
        json!({"exp": NOW - 59}),
        json!({"nbf": NOW + 60}),
    ] {
        assert_eq!(check(&good), Ok(()), "{good}");
    }
    for (bad, rejection) in [
        (json!({"aud": "else"}), Rejection::Audience),
        (json!({"aud": null}), Rejection::Audience),
        (json!({"exp": NOW - 60}), Rejection::Expired),
        (json!({"exp": null}), Rejection::Expired),
        (json!({"exp": "never"}), Rejection::Expired),
        (json!({"nbf": NOW + 61}), Rejection::NotYetValid),
        (json!({"nbf": "now"}), Rejection::NotYetValid),
    ] {
        assert_eq!(check(&bad), Err(rejection), "{bad}");
    }
}

/// PLAT-132: pinned, because another value would cut users off from their chats.
#[test]
fn a_subject_becomes_the_same_uuid_each_time_and_another_for_another_issuer() {
    let user = |change: Value| claims(&change).user("sub").unwrap().to_string();
    assert_eq!(user(json!({})), user(json!({})));
    assert_ne!(user(json!({})), user(json!({"iss": "https://b"})));
    let uuid = "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01";
    assert_eq!(user(json!({"sub": uuid})), uuid);
    assert_eq!(
        claims(&json!({"sub": ""})).user("sub"),
        Err(Rejection::User)
    );
    assert_eq!(user(json!({})), "8594a618-337f-5b47-b292-a8d1fadb4566");
}
