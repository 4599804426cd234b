//! `minichat-dataplane tenants`: shows and changes the owners of tenant ids
//! (D36).

use std::io::Write;

use anyhow::{Context as _, bail};
use minichat_config::process::JobConfig;
use minichat_core::{NamespacedName, TenantId};
use minichat_crds::render::derived_id;
use minichat_store::{ServedTenant, Store, StoreError};
use serde_json::json;

use crate::database::open;

/// The transfer of a tenant's id, with every chat under it, from one
/// `ChatTenant` to another.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub tenant: TenantId,
    /// The current owner.
    pub from: NamespacedName,
    pub to: NamespacedName,
}

/// Writes every tenant that was served from the database: a table, or with
/// `json` one object per line.
pub async fn list(config: &JobConfig, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let store = open(&config.database, false).await?;
    let tenants: Result<_, StoreError> = store
        .read(|tx| Box::pin(async move { tx.tenant_list().await }))
        .await;
    let tenants = tenants.context("the tenants cannot be read")?;
    let write = if json { write_json } else { write_table };
    write(&tenants, out).context("the list cannot be written")
}

fn write_json(tenants: &[ServedTenant], out: &mut dyn Write) -> std::io::Result<()> {
    for tenant in tenants {
        let ServedTenant {
            id,
            owner,
            first_served,
            last_served,
        } = tenant;
        let line = json!({
            "tenant_id": id,
            "owner": owner,
            "first_served": first_served.to_string(),
            "last_served": last_served.to_string(),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn write_table(tenants: &[ServedTenant], out: &mut dyn Write) -> std::io::Result<()> {
    let widest = tenants.iter().map(|tenant| tenant.owner.as_str().len());
    let width = widest.max().unwrap_or_default().max("OWNER".len());
    writeln!(
        out,
        "{:36}  {:width$}  {:27}  LAST SERVED",
        "TENANT", "OWNER", "FIRST SERVED"
    )?;
    for tenant in tenants {
        writeln!(
            out,
            "{:36}  {:width$}  {:27}  {}",
            tenant.id.to_string(),
            tenant.owner.as_str(),
            tenant.first_served.to_string(),
            tenant.last_served
        )?;
    }
    Ok(())
}

/// Carries out `transfer`. If it fails, nothing is changed. A transfer that was
/// carried out before is not an error.
pub async fn transfer(
    config: &JobConfig,
    transfer: &Transfer,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let Transfer { tenant, from, to } = transfer;
    if tenant.0.get_version_num() == 5 && derived_id(to) != *tenant {
        bail!(
            "{tenant} is a derived id (UUID version 5), which only the ChatTenant that it is derived from can have, and {to} is not that; nothing was changed"
        );
    }
    let store = open(&config.database, false).await?;
    match moved(&store, transfer.clone()).await? {
        Moved::Now => writeln!(
            out,
            "{tenant} belongs to {to} now, with all its chats. Processes that refused {to} serve it within seconds; {from} is refused from its next change or start on, so delete it."
        )?,
        Moved::Before => writeln!(
            out,
            "{tenant} belongs to {to} already; nothing was changed."
        )?,
        Moved::OtherOwner(owner) => bail!(
            "{tenant} belongs to {owner}, not to {from}; nothing was changed. Write --from {owner} if that is the one to take it from"
        ),
        Moved::Unknown => bail!(
            "no tenant {tenant} was ever served from this database; nothing was changed. `minichat-dataplane tenants list` shows those that were"
        ),
    }
    Ok(())
}

enum Moved {
    Now,
    Before,
    OtherOwner(NamespacedName),
    Unknown,
}

async fn moved(store: &Store, transfer: Transfer) -> Result<Moved, StoreError> {
    store
        .write(move |tx| {
            let Transfer { tenant, from, to } = transfer.clone();
            Box::pin(async move {
                if tx.tenant_transfer(tenant, &from, &to).await? {
                    return Ok(Moved::Now);
                }
                Ok(match tx.tenant_owner(tenant).await? {
                    Some(owner) if owner == to => Moved::Before,
                    Some(owner) => Moved::OtherOwner(owner),
                    None => Moved::Unknown,
                })
            })
        })
        .await
}
