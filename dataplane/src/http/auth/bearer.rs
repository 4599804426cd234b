//! Callers with a bearer token (PLAT-131). First the token's claims select the
//! tenant, then the signature is checked with the keys of that tenant's issuer.
//! A token opens one tenant or none.

use std::collections::HashSet;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use minichat_config::Issuer;
use minichat_core::{TenantId, Timestamp};
use minichat_identity::{Claims, Rejection, Token};
use minichat_provider::{ChosenBy, ProviderClient};

use super::issuer_keys::{IssuerKeys, Source, Unproven};
use super::{Identity, only, unauthenticated, unknown};
use crate::caller::{RequesterType, Scopes};
use crate::config_source::{Listing, Tenants};
use crate::problem::Problem;

pub(super) struct Bearer {
    /// Its tokens open the tenants that list no issuers.
    process_issuer: Option<Arc<Issuer>>,
    keys: Arc<IssuerKeys>,
}

impl Bearer {
    pub(super) fn new(
        process_issuer: Option<Issuer>,
        client: ProviderClient,
        allow_http: bool,
    ) -> Self {
        Self {
            process_issuer: process_issuer.map(Arc::new),
            keys: Arc::new(IssuerKeys::new(client, allow_http)),
        }
    }

    /// The identity that `token` proves, or 401; 503 if no key of its issuer
    /// could ever be loaded.
    pub(super) async fn identify(
        &self,
        token: &Token<'_>,
        tenants: &Tenants,
        now: Timestamp,
    ) -> Result<Identity, Problem> {
        let opened = self.opened(token.unverified(), tenants);
        let (tenant_id, issuer) = opened.map_err(|rejection| match rejection {
            Rejection::Issuer | Rejection::Tenant => unknown(tenants, &rejection.to_string()),
            _ => rejected(rejection),
        })?;
        self.keys.drop_unlisted(|| self.listed(tenants));
        let chosen_by = self.chosen_by(tenant_id, &issuer);
        let claims = match self
            .keys
            .verified(tenant_id, &issuer, chosen_by, token)
            .await
        {
            Ok(claims) => claims,
            Err(Unproven::Rejected(rejection)) => return Err(rejected(rejection)),
            Err(Unproven::NoKeys) => {
                return Err(Problem::unavailable(
                    "The keys of the token's issuer cannot be loaded at the moment. Try again.",
                ));
            }
        };
        identity(tenant_id, &issuer, claims, now).map_err(rejected)
    }

    /// Every source of keys that the process or a tenant uses.
    fn listed(&self, tenants: &Tenants) -> HashSet<Source> {
        let process = self.process_issuer.iter();
        let process = process.map(|issuer| Source::new(issuer, ChosenBy::Process));
        let all = tenants.all();
        let own = all.iter().flat_map(|(id, tenant)| {
            let issuers = tenant.config.issuers.iter();
            issuers.map(|issuer| Source::new(issuer, ChosenBy::Tenant(*id)))
        });
        process.chain(own).collect()
    }

    /// Who chose the address of `issuer`: its listed addresses are checked, the
    /// process's own are not.
    fn chosen_by(&self, tenant: TenantId, issuer: &Arc<Issuer>) -> ChosenBy {
        let process = self.process_issuer.as_ref();
        if process.is_some_and(|process| Arc::ptr_eq(process, issuer)) {
            ChosenBy::Process
        } else {
            ChosenBy::Tenant(tenant)
        }
    }

    /// The one tenant that a token with these `claims` would open, and the
    /// issuer whose keys decide.
    fn opened(
        &self,
        claims: &Claims,
        tenants: &Tenants,
    ) -> Result<(TenantId, Arc<Issuer>), Rejection> {
        let name = claims.issuer()?;
        let process = self
            .process_issuer
            .as_ref()
            .filter(|issuer| issuer.issuer == name);
        let by_process = || {
            let issuer = process.ok_or(Rejection::Tenant)?;
            let claim = issuer.tenant_claim.as_deref().ok_or(Rejection::Tenant)?;
            let tenant = claims.tenant(claim)?;
            let has_its_own = tenants
                .get(tenant)
                .is_some_and(|tenant| !tenant.config.issuers.is_empty());
            if has_its_own {
                return Err(Rejection::Tenant);
            }
            Ok((tenant, Arc::clone(issuer)))
        };
        match tenants.listing(name) {
            Listing::Nobody if process.is_none() => Err(Rejection::Issuer),
            Listing::Nobody => by_process(),
            // If a tenant listed the process's issuer without a claim, every
            // token of the process's issuer would open this tenant.
            Listing::Alone(..) if process.is_some() => Err(Rejection::Tenant),
            Listing::Alone(tenant, issuer) => {
                let claimed = claims.tenant("tenant_id");
                let is_foreign = claimed
                    .is_ok_and(|claimed| claimed != tenant && tenants.get(claimed).is_some());
                if is_foreign {
                    return Err(Rejection::Tenant);
                }
                Ok((tenant, issuer))
            }
            Listing::Shared(listed) => listed
                .opened(|claim| claims.tenant(claim).ok())
                .map_or_else(by_process, Ok),
            Listing::Contested => Err(Rejection::Tenant),
        }
    }
}

fn identity(
    tenant_id: TenantId,
    issuer: &Issuer,
    claims: &Claims,
    now: Timestamp,
) -> Result<Identity, Rejection> {
    claims.check(&issuer.audience, now)?;
    let scopes = claims.scopes(&issuer.scopes_claim)?;
    Ok(Identity {
        tenant_id,
        user_id: claims.user(&issuer.user_claim)?,
        requester_type: RequesterType::User,
        scopes: Scopes::parse(scopes.into_iter()),
    })
}

/// The bearer token of a request; `None` without one. Two tokens are an error.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = std::str::from_utf8(only(headers, &AUTHORIZATION)?).ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

pub(super) fn rejected(rejection: Rejection) -> Problem {
    unauthenticated(&rejection.to_string())
}
