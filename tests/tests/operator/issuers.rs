//! Issuers of tenants on their way to the pool (chapter 06, `auth.issuers`).

use minichat_tests::database::DatabaseKind;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::Site;
use serde_json::{Value, json};

use super::programs;

const LOGIN: &str = "https://login.example.com";

fn of(tenant: &Tenant) -> (&'static str, &str) {
    ("ChatTenant", tenant.name.as_str())
}

/// `tenant` with the issuer, and optionally the claim that names the tenant.
fn opened_by(tenant: &Tenant, claim: Option<&str>) -> Tenant {
    let mut entry = json!({"issuer": LOGIN, "audience": "minichat"});
    if let Some(claim) = claim {
        entry["tenantClaim"] = json!(claim);
    }
    let mut tenant = tenant.clone();
    tenant.spec()["auth"] = json!({ "issuers": [entry] });
    tenant
}

async fn revision(site: &Site, tenant: &Tenant) -> anyhow::Result<Value> {
    Ok(site.status(tenant).await?["revision"].clone())
}

/// K8S-7, K8S-8: an edit takes nothing from a running tenant, even if that one is younger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_is_of_the_tenant_that_runs_with_it_until_that_one_gives_it_up()
-> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let (older, newer) = (site.tenant("older"), site.tenant("newer"));
    site.admit([&older]).await?;
    site.admit([&opened_by(&newer, None)]).await?;
    let before = (
        revision(&site, &older).await?,
        revision(&site, &newer).await?,
    );

    for claim in [None, Some("org")] {
        site.apply_tenant(&opened_by(&older, claim)).await?;
        let message = site
            .await_condition(of(&older), "Accepted", "False/Conflict")
            .await?;
        let holder = format!("{}/newer", site.tenants);
        assert!(
            message.starts_with("spec.auth.issuers[0].issuer: ") && message.contains(&holder),
            "{message}"
        );
        site.await_ready(&newer).await?;
        let after = (
            revision(&site, &older).await?,
            revision(&site, &newer).await?,
        );
        assert_eq!(after, before);
        assert_eq!(pod.configz(&older).await?["revision"], before.0);
        pod.chat(&older).await?;
    }

    // They share it if both name a claim.
    site.apply_tenant(&opened_by(&newer, Some("org"))).await?;
    for tenant in [&older, &newer] {
        site.await_ready(tenant).await?;
        let revision = revision(&site, tenant).await?;
        assert_eq!(pod.configz(tenant).await?["revision"], revision);
        assert_eq!(pod.configz(tenant).await?["state"], "active");
    }
    Ok(())
}

/// K8S-8: no tenant waits for an issuer of a deleted tenant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_of_a_deleted_tenant_is_free() -> anyhow::Result<()> {
    let site = Site::shared(programs(), DatabaseKind::Sqlite).await?;
    let _operator = site.operator().await?;
    let pod = site.pod().await?;
    let first = opened_by(&site.tenant("first"), None);
    let second = opened_by(&site.tenant("second"), None);
    site.admit([&first]).await?;
    site.apply_tenant(&second).await?;
    site.await_condition(of(&second), "Accepted", "False/Conflict")
        .await?;
    assert!(site.rendered(&second).await?.is_none());
    site.delete("ChatTenant", "first").await?;
    site.await_ready(&second).await?;
    assert_eq!(
        pod.configz(&second).await?["revision"],
        revision(&site, &second).await?
    );
    Ok(())
}
