//! Signatures of Standard Webhooks 1.0: HMAC-SHA-256 of `id.timestamp.body`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minichat_config::tenant::sink::SigningKey;
use ring::hmac::{Context, HMAC_SHA256, Key};

/// The value of `webhook-signature`: one signature with each of `keys`,
/// separated by spaces. `seconds` is the value of `webhook-timestamp`.
pub(super) fn header(keys: &[SigningKey], id: &str, seconds: i64, body: &[u8]) -> String {
    let signatures = keys.iter().map(|key| sign(key, id, seconds, body));
    signatures.collect::<Vec<_>>().join(" ")
}

fn sign(key: &SigningKey, id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = Context::with_key(&Key::new(HMAC_SHA256, key.expose()));
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::hmac;

    use super::*;

    /// The example of the Standard Webhooks libraries, which all of them test.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn keys(secrets: &str) -> Vec<SigningKey> {
        SigningKey::read_all(secrets).unwrap()
    }

    /// Verifies as a receiver does.
    fn verifies(key: &[u8], id: &str, seconds: i64, body: &[u8], header: &str) -> bool {
        let signed = [format!("{id}.{seconds}.").as_bytes(), body].concat();
        let key = Key::new(HMAC_SHA256, key);
        header.split(' ').any(|signature| {
            let signature = signature.strip_prefix("v1,").unwrap();
            let signature = BASE64_STANDARD.decode(signature).unwrap();
            hmac::verify(&key, &signed, &signature).is_ok()
        })
    }

    #[test]
    fn the_published_example_is_signed_as_published() {
        assert_eq!(header(&keys(SECRET), ID, SECONDS, BODY), SIGNATURE);
    }

    #[test]
    fn near_misses_of_the_published_example_have_other_signatures() {
        for (id, seconds, body) in [
            ("msg_p5jXN8AQM9LWM0D4loKWxJej", SECONDS, BODY),
            (ID, SECONDS + 1, BODY),
            (ID, SECONDS, br#"{"test":2432232314}"#.as_slice()),
            (ID, SECONDS, br#"{"test": 2432232314} "#.as_slice()),
            (ID, SECONDS, b"".as_slice()),
        ] {
            assert_ne!(header(&keys(SECRET), id, seconds, body), SIGNATURE);
        }
        let other = keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx");
        assert_ne!(header(&other, ID, SECONDS, BODY), SIGNATURE);
    }

    #[test]
    fn while_a_secret_is_rotated_each_of_both_verifies() {
        let next = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let both = keys(&format!("{next} {SECRET}"));
        let header = header(&both, ID, SECONDS, BODY);
        assert!(header.ends_with(&format!(" {SIGNATURE}")), "{header}");
        for key in &both {
            assert!(verifies(key.expose(), ID, SECONDS, BODY, &header));
        }
        assert!(!verifies(&[0; 32], ID, SECONDS, BODY, &header));
    }

    proptest! {
        /// A signed request verifies, and with any bit of the body, the id, the
        /// time or the key changed it does not.
        #[test]
        fn a_flipped_bit_is_noticed(
            key in proptest::collection::vec(any::<u8>(), 24..=64),
            id in "[0-9a-f/]{1,98}",
            seconds in 0_i64..4_000_000_000,
            body in proptest::collection::vec(any::<u8>(), 1..300),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let header = header(&[SigningKey::new(key.clone())], &id, seconds, &body);
            prop_assert!(verifies(&key, &id, seconds, &body, &header));
            let flipped = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                bytes
            };
            prop_assert!(!verifies(&key, &id, seconds, &flipped(&body), &header));
            prop_assert!(!verifies(&flipped(&key), &id, seconds, &body, &header));
            prop_assert!(!verifies(&key, &id, seconds ^ (1 << bit), &body, &header));
            let longer = id + "0";
            prop_assert!(!verifies(&key, &longer, seconds, &body, &header));
        }
    }
}
