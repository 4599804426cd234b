//! Revisions of a tenant's configuration (K8S-20).

use minichat_config::Credentials;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Makes revisions. The key keeps a revision, which is public, from telling
/// anything about the credentials that it covers.
pub struct Revisions {
    key: [u8; 32],
}

impl Default for Revisions {
    fn default() -> Self {
        Self::new()
    }
}

impl Revisions {
    /// With a random key: revisions of another process differ, so a revision is
    /// kept with what it names, and never computed anew to be compared.
    pub fn new() -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Self { key }
    }

    /// `<version>-<12 hex digits over the document and the credentials>`.
    pub fn of(&self, version: u64, content_hash: &str, credentials: &Credentials) -> String {
        let mut keyed = Sha256::new_with_prefix(self.key);
        for (name, secret) in credentials.iter() {
            for part in [name, secret.expose()] {
                keyed.update(part.len().to_be_bytes());
                keyed.update(part);
            }
        }
        // The key on both sides, so that nothing can be appended.
        keyed.update(self.key);
        let both = Sha256::new_with_prefix(content_hash).chain_update(keyed.finalize());
        format!("{version}-{}", twelve_hex(&both.finalize()))
    }

    /// `refused-<12 hex digits>` of what was refused before it could be
    /// numbered: `texts` are those of its files, which may hold Secrets.
    pub fn of_refused<'a>(&self, texts: impl Iterator<Item = &'a str>) -> String {
        let mut keyed = Sha256::new_with_prefix(self.key);
        for text in texts {
            keyed.update(text.len().to_be_bytes());
            keyed.update(text);
        }
        keyed.update(self.key);
        format!("refused-{}", twelve_hex(&keyed.finalize()))
    }
}

/// The first 12 hex digits of `digest`, which has at least 8 bytes.
fn twelve_hex(digest: &[u8]) -> String {
    let first = digest
        .iter()
        .take(8)
        .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    format!("{:012x}", first >> 16)
}
