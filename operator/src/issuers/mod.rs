//! Who lists which issuer of tokens: none opens two tenants by accident
//! (`auth.issuers`). An issuer is *shared* when every tenant that lists it names
//! a `tenantClaim`; otherwise it belongs to the tenant that was delivered with it
//! first, and before any was, to the oldest. A tenant is told by its
//! `namespace/name`: its id alone says nothing, since another may ask for the same.

mod conflict;
mod delivered;
mod listed;

#[cfg(test)]
mod tests;

pub(crate) use conflict::{conflict, contested};
pub(crate) use delivered::{DeliveredIssuers, LIFETIME};
pub(crate) use listed::{Listed, exclude_each_other};
