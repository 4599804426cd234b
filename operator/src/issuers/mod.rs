//! Which tenant an issuer of tokens belongs to (`auth.issuers`), so that its tokens do not open
//! two tenants by accident. An issuer is *shared* when every tenant that lists it names a
//! `tenantClaim`. Otherwise it belongs to the tenant that was delivered with it first; before
//! any was, to the oldest. Tenants are known by `namespace/name` here, because two of them may
//! ask for the same id.

mod conflict;
mod delivered;

#[cfg(test)]
mod tests;

pub(crate) use conflict::{conflict, contested};
pub(crate) use delivered::{DeliveredIssuers, LIFETIME};
