//! The name of a `ChatTenant` in its cluster or directory: `namespace/name`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MAX_NAMESPACE: usize = 63;
const MAX_NAME: usize = 253;

/// `namespace/name`, as Kubernetes names an object: an RFC 1123 label and an
/// RFC 1123 subdomain. A tenant's id belongs to one of these (D36).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NamespacedName(String);

/// Why a text is not a [`NamespacedName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be namespace/name, each of lower-case letters, digits and - (the name also .), such as team-a/acme"
)]
pub struct NotANamespacedName;

impl NamespacedName {
    /// The object called `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NotANamespacedName> {
        let is_valid = namespace.len() <= MAX_NAMESPACE
            && is_label(namespace)
            && name.len() <= MAX_NAME
            && name.split('.').all(is_label);
        if is_valid {
            Ok(Self(format!("{namespace}/{name}")))
        } else {
            Err(NotANamespacedName)
        }
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

impl FromStr for NamespacedName {
    type Err = NotANamespacedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or(NotANamespacedName)?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for NamespacedName {
    type Error = NotANamespacedName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NamespacedName> for String {
    fn from(name: NamespacedName) -> Self {
        name.0
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_and_a_name_are_read() {
        for text in ["default/acme", "team-a/acme.example", "0/1"] {
            assert_eq!(text.parse::<NamespacedName>().unwrap().as_str(), text);
        }
        let long = format!("{}/acme", "n".repeat(64));
        for text in [
            "", "/", "acme", "default/", "/acme", "a/b/c", "A/acme", "a/Acme", "a b/c", "a.b/c",
            "../acme", "a/..", "a/-b", "a/b\n", &long,
        ] {
            assert_eq!(
                text.parse::<NamespacedName>(),
                Err(NotANamespacedName),
                "{text:?}"
            );
        }
    }
}
