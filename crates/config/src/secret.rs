//! Secret values, which are never printed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// A value that neither `Debug` nor `Display` shows, and that cannot be
/// serialised (PLAT-102, PLAT-150).
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Minimum length, in bytes, of a credential that is masked wherever the
    /// text of an answer repeats it. A shorter one, such as the `none` that
    /// some local servers want, could be a word of any answer.
    pub const SHORTEST_MASKED: usize = 8;

    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a header may carry the value: printable ASCII, at least one character
    /// (PLAT-102).
    pub fn is_header_value(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// A tenant's credentials by reference name, the `secret_ref` of a provider's
/// `auth`. Rendered from Secrets as `<secret name>/<key>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// The credential called `reference`, if the tenant has one.
    pub fn get(&self, reference: &str) -> Option<&Secret> {
        self.0.get(reference)
    }

    /// Adds or replaces the credential called `reference`.
    pub fn insert(&mut self, reference: impl Into<String>, secret: Secret) {
        self.0.insert(reference.into(), secret);
    }

    /// Names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-150: secrets never print.
    #[test]
    fn neither_debug_nor_display_shows_a_secret() {
        let mut credentials = Credentials::default();
        credentials.insert("openai/key", Secret::new("sk-visible"));
        let secret = credentials.get("openai/key").unwrap();
        let shown = format!("{credentials:?} {secret} {secret:?}");
        assert!(!shown.contains("sk-visible"), "{shown}");
        assert_eq!(secret.expose(), "sk-visible");
    }
}
