//! What the configuration that a turn pinned says of it, for a process that knows
//! only its row: its price, and whether its audit event contains texts. It comes
//! from the stored policy of the version in the row, whatever the tenant's current
//! configuration is (TURN-56, QUOTA-34, PLAT-85).

use std::collections::HashMap;
use std::sync::Arc;

use minichat_core::TenantId;
use minichat_core::quota::{Pricing, Tier};
use minichat_store::{Orphan, Store, StoreError};
use serde::Deserialize;

use crate::turn::account::Price;

/// Why the policy of a row is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
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
    audit_sink: Option<AuditSink>,
}

/// The type may be one of another release too.
#[derive(Deserialize)]
struct AuditSink {
    r#type: String,
    #[serde(default)]
    include_content: bool,
}

#[derive(Deserialize)]
struct PricedModel {
    id: String,
    tier: Tier,
    input_tokens_credit_multiplier_micro: u64,
    output_tokens_credit_multiplier_micro: u64,
}

/// Reads each policy once.
pub(super) struct StoredPolicies {
    store: Store,
    policies: HashMap<(TenantId, u64), Arc<Policy>>,
}

impl StoredPolicies {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            policies: HashMap::new(),
        }
    }

    /// The price with which `row` was reserved; `None` if the row never had a
    /// reserve.
    pub(super) async fn price(&mut self, row: &Orphan) -> Result<Option<Price>, PolicyError> {
        let (Some(version), Some(name)) = (row.policy_version_applied, &row.effective_model) else {
            return Ok(None);
        };
        let tenant = row.tenant_id;
        let policy = self.policy(tenant, version).await?;
        let model = policy.model_catalog.iter().find(|model| model.id == *name);
        let model = model.ok_or_else(|| PolicyError::NoModel {
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

    /// The user's text of `row`, if the tenant asked for it; otherwise nothing is
    /// read.
    pub(super) async fn audited_prompt(
        &mut self,
        row: &Orphan,
    ) -> Result<Option<Arc<str>>, PolicyError> {
        let Some(version) = row.policy_version_applied else {
            return Ok(None);
        };
        let (tenant, chat, request) = (row.tenant_id, row.chat_id, row.request_id);
        let policy = self.policy(tenant, version).await?;
        let sink = policy.audit_sink.as_ref();
        if !sink.is_some_and(|sink| sink.include_content && sink.r#type == "webhook") {
            return Ok(None);
        }
        let text = self
            .store
            .read(move |tx| {
                Box::pin(async move { tx.message_of_user(tenant, chat, request).await })
            })
            .await?;
        Ok(text.map(Into::into))
    }

    async fn policy(&mut self, tenant: TenantId, version: u64) -> Result<Arc<Policy>, PolicyError> {
        if let Some(policy) = self.policies.get(&(tenant, version)) {
            return Ok(Arc::clone(policy));
        }
        let stored = self
            .store
            .read(move |tx| Box::pin(async move { tx.policy_snapshot_get(tenant, version).await }))
            .await?;
        let stored = stored.ok_or(PolicyError::Missing { tenant, version })?;
        let policy: Policy = serde_json::from_str(&stored.snapshot)
            .map_err(|_| PolicyError::Unreadable { tenant, version })?;
        let policy = Arc::new(policy);
        self.policies.insert((tenant, version), Arc::clone(&policy));
        Ok(policy)
    }
}
