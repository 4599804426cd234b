//! Bearer tokens (PLAT-131): who signed them and what they say. Signed JSON Web
//! Tokens in their compact form, verified with the primitives that TLS uses
//! too. No I/O: keys come from whoever fetched them, the time from the caller.

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
