//! The price of a turn whose process is gone. It comes from the stored policy
//! of the version in the turn's row, whatever the tenant's current
//! configuration is (TURN-56, QUOTA-34).

use std::collections::HashMap;
use std::sync::Arc;

use minichat_core::TenantId;
use minichat_core::quota::{Pricing, Tier};
use minichat_store::{Orphan, Store, StoreError};
use serde::Deserialize;

use crate::turn::account::Price;

/// Why a row cannot be priced.
#[derive(Debug, thiserror::Error)]
pub(super) enum PriceError {
    #[error("policy version {version} of tenant {tenant} is not stored")]
    Missing { tenant: TenantId, version: u64 },
    #[error("policy version {version} of tenant {tenant} cannot be read")]
    Unreadable { tenant: TenantId, version: u64 },
    #[error("policy version {version} of tenant {tenant} has no model {model}")]
    NoModel {
        tenant: TenantId,
        version: u64,
        model: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The part of a stored document that settlement needs. The rest may come from
/// another release.
#[derive(Deserialize)]
struct Policy {
    model_catalog: Vec<PricedModel>,
}

#[derive(Deserialize)]
struct PricedModel {
    id: String,
    tier: Tier,
    input_tokens_credit_multiplier_micro: u64,
    output_tokens_credit_multiplier_micro: u64,
}

/// Reads each policy once.
pub(super) struct StoredPrices {
    store: Store,
    policies: HashMap<(TenantId, u64), Arc<Policy>>,
}

impl StoredPrices {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            policies: HashMap::new(),
        }
    }

    /// The price with which `row` was reserved; `None` if the row never had a
    /// reserve.
    pub(super) async fn of(&mut self, row: &Orphan) -> Result<Option<Price>, PriceError> {
        let (Some(version), Some(name)) = (row.policy_version_applied, &row.effective_model) else {
            return Ok(None);
        };
        let tenant = row.tenant_id;
        let policy = self.policy(tenant, version).await?;
        let model = policy.model_catalog.iter().find(|model| model.id == *name);
        let model = model.ok_or_else(|| PriceError::NoModel {
            tenant,
            version,
            model: name.clone(),
        })?;
        Ok(Some(Price {
            tier: model.tier,
            pricing: Pricing {
                input_multiplier_micro: model.input_tokens_credit_multiplier_micro,
                output_multiplier_micro: model.output_tokens_credit_multiplier_micro,
            },
            // An estimate never exceeds the reserve (QUOTA-59).
            overshoot_tolerance_pct: 0,
        }))
    }

    async fn policy(&mut self, tenant: TenantId, version: u64) -> Result<Arc<Policy>, PriceError> {
        if let Some(policy) = self.policies.get(&(tenant, version)) {
            return Ok(Arc::clone(policy));
        }
        let stored = self
            .store
            .read(move |tx| Box::pin(async move { tx.policy_snapshot_get(tenant, version).await }))
            .await?;
        let stored = stored.ok_or(PriceError::Missing { tenant, version })?;
        let policy: Policy = serde_json::from_str(&stored.snapshot)
            .map_err(|_| PriceError::Unreadable { tenant, version })?;
        let policy = Arc::new(policy);
        self.policies.insert((tenant, version), Arc::clone(&policy));
        Ok(policy)
    }
}
