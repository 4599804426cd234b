//! The credentials that a tenant refers to, and what is wrong with references.

use std::collections::BTreeMap;

use minichat_config::tenant::sink::SigningKey;
use minichat_config::{Credentials, Fault, Secret};

use super::document;
use crate::ChatTenant;
use crate::chat_tenant::{CredentialRef, CredentialUse, SecretKeyRef};

/// Longest credential in bytes: servers refuse header sections that are much longer.
const MAX_BYTES: usize = 8 * 1024;

/// Secrets of the tenant's namespace: name, then key, then value.
pub type Secrets = BTreeMap<String, BTreeMap<String, SecretValue>>;

/// One value of a Secret.
#[derive(Debug, Clone)]
pub enum SecretValue {
    /// It is UTF-8.
    Text(Secret),
    /// It is not.
    Binary,
}

impl From<Secret> for SecretValue {
    fn from(text: Secret) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for SecretValue {
    fn from(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes);
        text.map_or(Self::Binary, |text| Self::Text(Secret::new(text)))
    }
}

/// A reference to a Secret that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// Where it stands, and what to write instead.
    pub fault: Fault,
    pub kind: UnresolvedKind,
    /// Name of the Secret.
    pub secret: String,
    pub key: String,
    /// Name of the credential, `<secret>/<key>`.
    pub reference: String,
}

/// Why a reference cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnresolvedKind {
    /// There is no such Secret.
    SecretNotFound,
    /// It has no such key.
    KeyMissing,
    /// Its value can be no credential.
    SecretInvalid,
}

/// The credentials that `tenant` refers to, and the references that lead nowhere.
pub fn resolve(tenant: &ChatTenant, secrets: &Secrets) -> (Credentials, Vec<Unresolved>) {
    let (mut credentials, mut unresolved) = (Credentials::default(), Vec::new());
    for CredentialRef { path, to, used_as } in tenant.spec.credential_refs() {
        match credential(to, used_as, secrets) {
            Ok(value) => credentials.insert(document::secret_ref(to), value.clone()),
            Err((kind, message)) => {
                let field = match kind {
                    UnresolvedKind::SecretNotFound => "name",
                    UnresolvedKind::KeyMissing | UnresolvedKind::SecretInvalid => "key",
                };
                let path = format!("{path}.{field}");
                unresolved.push(Unresolved {
                    fault: Fault { path, message },
                    kind,
                    secret: to.name.clone(),
                    key: to.key.clone(),
                    reference: document::secret_ref(to),
                });
            }
        }
    }
    (credentials, unresolved)
}

fn credential<'a>(
    reference: &SecretKeyRef,
    used_as: CredentialUse,
    secrets: &'a Secrets,
) -> Result<&'a Secret, (UnresolvedKind, String)> {
    let SecretKeyRef { name, key } = reference;
    let secret = secrets.get(name).ok_or_else(|| {
        let message = format!(
            "there is no Secret {name} in the namespace; create it or write the name of one that exists"
        );
        (UnresolvedKind::SecretNotFound, message)
    })?;
    // Which keys it has is not told: who reads this may not be allowed to read it.
    let value = secret.get(key).ok_or_else(|| {
        let message = format!(
            "the Secret {name} has no key {key}; add it to the Secret or write one that it has"
        );
        (UnresolvedKind::KeyMissing, message)
    })?;
    let why = match value {
        SecretValue::Text(text) => {
            let why = match used_as {
                CredentialUse::Header => unusable(text.expose()),
                CredentialUse::Signature => SigningKey::read_all(text.expose()).err(),
            };
            let Some(why) = why else { return Ok(text) };
            why
        }
        SecretValue::Binary => "is not UTF-8 text".to_owned(),
    };
    let message = format!("the value of {key} in the Secret {name} {why}; correct the Secret");
    Err((UnresolvedKind::SecretInvalid, message))
}

/// Why `value` cannot be sent in a header (PLAT-102), without a word of it.
fn unusable(value: &str) -> Option<String> {
    if value.is_empty() {
        return Some("is empty".to_owned());
    }
    if value.len() > MAX_BYTES {
        return Some(format!(
            "has {} bytes, and a header at most {MAX_BYTES}",
            value.len()
        ));
    }
    let is_header_value = |value: &str| Secret::new(value).is_header_value();
    if is_header_value(value) {
        return None;
    }
    let why = if is_header_value(value.trim_end_matches(['\r', '\n'])) {
        "ends in a line break, as `echo` writes one and `printf %s` does not"
    } else if value.chars().any(char::is_control) {
        "has control characters, such as a line break or a tab, which no header may have"
    } else {
        "has characters that no header may have: only printable ASCII is sent"
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{tenant, with};

    /// D49: what cannot be sent says why, and shows neither the value nor other keys.
    #[test]
    fn a_value_that_cannot_be_used_says_why_and_is_not_shown() {
        let long = "x".repeat(MAX_BYTES + 1);
        for (value, why) in [
            (b"".as_slice(), "is empty"),
            (b"sk-visible\n", "ends in a line break"),
            (b"sk-visible\r\n", "ends in a line break"),
            (b"sk-vis\nible", "has control characters"),
            (b"sk-visible\t", "has control characters"),
            (b"sk-visible\0", "has control characters"),
            ("sk-visible-ü".as_bytes(), "only printable ASCII is sent"),
            (b"sk-visible\xff", "is not UTF-8 text"),
            (long.as_bytes(), "has 8193 bytes, and a header at most 8192"),
        ] {
            let keys = [("key", value), ("other", b"x")];
            let keys = keys.map(|(key, value)| (key.to_owned(), SecretValue::from(value)));
            let secrets = Secrets::from([("main".to_owned(), keys.into())]);
            let auth = serde_json::json!({"secretKeyRef": {"name": "main", "key": "key"}});
            let object = with(tenant(), "/spec/providers/0/auth", auth);
            let tenant = crate::validation::chat_tenant(&object, None).unwrap();
            let (credentials, unresolved) = resolve(&tenant, &secrets);
            assert_eq!(credentials.iter().count(), 0);
            assert_eq!(unresolved[0].kind, UnresolvedKind::SecretInvalid, "{why}");
            let Fault { path, message } = &unresolved[0].fault;
            assert_eq!(path, "spec.providers[0].auth.secretKeyRef.key");
            assert!(message.contains(why), "{message}");
            let shown = ["sk-vis", "xxx", "other"].map(|part| message.contains(part));
            assert_eq!(shown, [false; 3], "{message}");
        }
    }

    #[test]
    fn the_longest_credential_is_used() {
        assert_eq!(unusable(&"x".repeat(MAX_BYTES)), None);
    }
}
