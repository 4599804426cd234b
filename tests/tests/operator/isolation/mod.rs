//! An adversary who may write `ChatTenant`, `ChatQuota` and `Secret` in one namespace, and a victim in another. Nothing
//! of the victim is read, changed, delayed or denied.
//! `ARCHITECTURE.md` lists what these tests cannot show because it depends on the cluster's network policies.

mod attacks;
mod fields;
mod world;

use minichat_tests::manifest::PROVIDER_KEY;
use minichat_tests::site::eventually;
use serde_json::json;

use world::{SOON, World};

/// D36, D49, K8S-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_tenant_leaves_the_tenants_of_others_alone() -> anyhow::Result<()> {
    let world = World::new().await?;
    let cases = fields::of_tenants(&world);
    fields::assert_complete("ChatTenant", &cases);
    for (field, values) in cases {
        for value in values {
            let object = fields::tenant_with(&world, field, &value);
            world.attack(&format!("{field}: {value}"), &object).await?;
        }
    }
    world.victim_is_served().await
}

/// D36, QUOTA-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_quota_leaves_the_tenants_of_others_alone() -> anyhow::Result<()> {
    let world = World::new().await?;
    let cases = fields::of_quotas(&world);
    fields::assert_complete("ChatQuota", &cases);
    for (field, values) in cases {
        for value in values {
            let object = fields::quota_with(&world, field, &value);
            world.attack(&format!("{field}: {value}"), &object).await?;
        }
    }
    world.victim_is_served().await
}

/// D36, D49, K8S-13, K8S-20: names, annotations, labels, owners, finalizers, statuses, Secrets that look like rendered ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_metadata_and_no_secret_reaches_the_tenants_of_others() -> anyhow::Result<()> {
    let world = World::new().await?;
    for (what, object) in attacks::of_metadata(&world) {
        world.attack(what, &object).await?;
    }
    for (what, status) in attacks::of_status(&world) {
        world.attack_with_status(what, &status).await?;
    }
    for (what, secret) in attacks::of_secrets(&world) {
        world.attack(what, &secret).await?;
    }
    world.victim_is_served().await
}

/// K8S-8, K8S-11: while many tenants of the adversary are refused for different reasons, an edit of the victim is
/// delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_broken_tenants_hold_up_no_edit_of_another_ones() -> anyhow::Result<()> {
    let world = World::new().await?;
    for number in 0..20 {
        for (reason, object) in attacks::broken(&world, number) {
            world
                .create(&object)
                .await?
                .unwrap_or_else(|refused| panic!("{reason}: {refused}"));
        }
    }
    let mut edited = world.victim.clone();
    edited.spec()["displayName"] = json!("edited");
    world.site.apply_tenant(&edited).await?;
    world.site.await_ready(&edited).await?;
    let revision = world.site.status(&edited).await?["revision"].clone();
    let runs = async || Ok(world.pod.configz(&edited).await?["revision"] == revision);
    eventually("running the edit", SOON, runs).await?;
    for request in world.listener.requests() {
        let text = format!("{:?}", request.headers);
        assert!(
            !text.contains(world::KEY) && !text.contains(PROVIDER_KEY),
            "{text}"
        );
    }
    world.pod.chat(&edited).await
}
