//! Verification of bearer tokens (PLAT-131): signed JSON Web Tokens in their
//! compact form. The signatures are checked with the same cryptography crates
//! that TLS uses. No I/O: the caller passes the issuer's keys and the time.

mod claims;
mod key_set;
mod rejection;
mod token;

#[cfg(test)]
mod tests;

pub use claims::Claims;
pub use key_set::{KeySet, KeySetError};
pub use rejection::Rejection;
pub use token::Token;
