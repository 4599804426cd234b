//! Which tenant has which issuer while tenants come and go.

use minichat_crds::cases;
use serde_json::{Value, json};

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::rendered_secret::{self, TENANT_KEY};
use minichat_crds::{ChatTenant, render};

use super::delivered::Claim;
use super::*;
use crate::status::{Reason, Type};
use crate::tenant::{Listed, Subject};

const OLD: u8 = 1;
const NEW: u8 = 2;

/// A tenant that was created on the day `number`, with issuers, each
/// `<issuer>` or `<issuer> <tenant claim>`.
fn tenant(number: u8, issuers: &[&str]) -> Arc<ChatTenant> {
    let issuers: Vec<Value> = issuers
        .iter()
        .map(|text| match text.split_once(' ') {
            Some((issuer, claim)) => {
                json!({"issuer": issuer, "audience": "a", "tenantClaim": claim})
            }
            None => json!({"issuer": text, "audience": "a"}),
        })
        .collect();
    let mut object = cases::tenant();
    object["spec"]["tenantId"] = json!(id(number));
    object["spec"]["auth"] = json!({ "issuers": issuers });
    let mut tenant = minichat_crds::validation::chat_tenant(&object, None).unwrap();
    tenant.metadata = serde_json::from_value(json!({
        "name": format!("t{number}"), "namespace": "a", "uid": number.to_string(),
        "creationTimestamp": format!("2026-01-0{number}T00:00:00Z"), "generation": 1,
    }))
    .unwrap();
    Arc::new(tenant)
}

fn id(number: u8) -> String {
    format!("5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a0{number}")
}

fn secret(number: u8, issuers: &[&str]) -> Secret {
    let issuers: Vec<Value> = issuers
        .iter()
        .map(|text| match text.split_once(' ') {
            Some((issuer, claim)) => json!({"issuer": issuer, "tenant_claim": claim}),
            None => json!({ "issuer": text }),
        })
        .collect();
    let text = json!({"schema": 1, "issuers": issuers}).to_string();
    let mut secret = Secret::default();
    secret.metadata.name = Some(rendered_secret::name(id(number).parse().unwrap()));
    secret
        .annotations_mut()
        .insert(rendered_secret::SOURCE.to_owned(), format!("a/t{number}"));
    let text = k8s_openapi::ByteString(text.into_bytes());
    secret.data = Some([(TENANT_KEY.to_owned(), text)].into());
    secret
}

/// Claims what `tenant` lists, as one who has seen what is delivered now.
fn claimed(delivered: &DeliveredIssuers, tenant: &ChatTenant) -> Option<Claim> {
    let held = delivered.held();
    let shown = held.listed.get(&render::tenant_id(tenant));
    let seen = shown.and_then(|shown| shown.source.clone());
    drop(held);
    delivered.claim(&Subject::of(tenant), seen.as_deref())
}

fn conflicts(
    old: &Arc<ChatTenant>,
    new: &Arc<ChatTenant>,
    delivered: &DeliveredIssuers,
) -> (Option<String>, Option<String>) {
    let all = [Arc::clone(new), Arc::clone(old)];
    (
        conflict(&Subject::of(old), &all, delivered),
        conflict(&Subject::of(new), &all, delivered),
    )
}

/// K8S, section 2, `auth.issuers`
#[test]
fn of_two_that_were_not_delivered_the_oldest_has_the_issuer() {
    let delivered = DeliveredIssuers::default();
    let (old, new) = (
        tenant(OLD, &["https://x"]),
        tenant(NEW, &["https://y", "https://x"]),
    );
    let (of_old, of_new) = conflicts(&old, &new, &delivered);
    assert_eq!(of_old, None);
    let message = of_new.unwrap();
    assert!(
        message.starts_with(
            "spec.auth.issuers[1].issuer: https://x is listed by the ChatTenant a/t1, which is older, too"
        ),
        "{message}"
    );
    for (old, new, fits) in [
        ("https://x org", "https://x org", true),
        ("https://x org", "https://x", false),
        ("https://x", "https://x org", false),
        ("https://x", "https://x/", true),
    ] {
        let found = conflicts(&tenant(OLD, &[old]), &tenant(NEW, &[new]), &delivered);
        assert_eq!((found.0, found.1.is_none()), (None, fits), "{old}, {new}");
    }
}

/// K8S-8: an edit of an older tenant takes nothing away from a newer one.
#[test]
fn what_is_delivered_comes_before_what_is_older() {
    let delivered = DeliveredIssuers::default();
    delivered.set(&secret(NEW, &["https://x"]));
    let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
    let (of_old, of_new) = conflicts(&old, &new, &delivered);
    assert!(of_old.unwrap().contains("the ChatTenant a/t2"));
    assert_eq!(of_new, None);
    // Until the newer one has given it up, and that is delivered.
    let new = tenant(NEW, &[]);
    assert!(conflicts(&old, &new, &delivered).0.is_some());
    assert_eq!(delivered.set(&secret(NEW, &[])), Listed::by_tenant(&old));
    assert_eq!(conflicts(&old, &new, &delivered).0, None);
    assert_eq!(delivered.set(&secret(NEW, &["https://x"])), []);
    let sharing = tenant(NEW, &["https://x org"]);
    assert_eq!(conflicts(&old, &sharing, &delivered).1, None);
    delivered.set(&secret(NEW, &[]));
    // A Secret whose tenant is gone still delivers.
    delivered.set(&secret(3, &["https://x"]));
    assert!(
        conflicts(&old, &new, &delivered)
            .0
            .unwrap()
            .contains("a/t3, which is being removed,")
    );
    delivered.remove(&secret(3, &[]));
    assert_eq!(conflicts(&old, &new, &delivered).0, None);
}

/// K8S, section 2, `auth.issuers`: two that are decided at once, and a write that
/// no cache shows yet.
#[test]
fn an_issuer_is_taken_from_the_moment_before_its_secret_is_written() {
    let delivered = DeliveredIssuers::default();
    let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
    let claim = claimed(&delivered, &new).unwrap();
    assert!(claimed(&delivered, &old).is_none());
    assert!(conflicts(&old, &new, &delivered).0.is_some());
    delivered.release(&claim);
    assert_eq!(conflicts(&old, &new, &delivered).0, None, "not written");

    let _ = claimed(&delivered, &new).unwrap();
    assert!(claimed(&delivered, &old).is_none());
    assert_eq!(conflicts(&old, &new, &delivered).1, None);
    // An earlier write returns first, and takes nothing away.
    delivered.set(&secret(NEW, &[]));
    assert!(claimed(&delivered, &old).is_none());
    delivered.set(&secret(NEW, &["https://x"]));
    assert!(claimed(&delivered, &old).is_none());
    // Given up, and that is not shown yet.
    let _ = claimed(&delivered, &tenant(NEW, &[])).unwrap();
    assert!(claimed(&delivered, &old).is_none());
    delivered.set(&secret(NEW, &[]));
    let _ = claimed(&delivered, &old).unwrap();
    assert!(claimed(&delivered, &new).is_none());
    // Shared ones exclude no tenant.
    let shared = ["https://y org"];
    for number in [OLD, NEW] {
        let _ = claimed(&delivered, &tenant(number, &shared)).unwrap();
    }
    delivered.set(&secret(OLD, &shared));
    delivered.set(&secret(NEW, &shared));
    assert!(delivered.held().claimed.is_empty(), "nothing is kept");
    let (old, new) = (tenant(OLD, &["https://z"]), tenant(NEW, &["https://z"]));
    let _ = claimed(&delivered, &old).unwrap();
    delivered.forget_claims(&Subject::of(&old));
    assert!(claimed(&delivered, &new).is_some());
}

/// K8S, section 2, `auth.issuers`: a refused write ends its own claim alone.
#[tokio::test(start_paused = true)]
async fn an_issuer_of_a_write_that_no_cache_shows_yet_outlives_a_later_refusal() {
    let delivered = DeliveredIssuers::default();
    let (old, new) = (tenant(OLD, &["https://x"]), tenant(NEW, &["https://x"]));
    let _ = claimed(&delivered, &new).unwrap();
    let refused = claimed(&delivered, &tenant(NEW, &["https://y"])).unwrap();
    delivered.release(&refused);
    assert!(claimed(&delivered, &old).is_none());
    assert!(claimed(&delivered, &tenant(OLD, &["https://y"])).is_some());
    delivered.forget_claims(&Subject::of(&old));

    // The write may have taken place, until it cannot any more.
    tokio::time::advance(LIFETIME).await;
    let _ = claimed(&delivered, &old).unwrap();
    delivered.forget_claims(&Subject::of(&old));
    let _ = claimed(&delivered, &new).unwrap();

    // The earlier write is shown before the later one is refused.
    let refused = claimed(&delivered, &tenant(NEW, &["https://y"])).unwrap();
    delivered.set(&secret(NEW, &["https://x"]));
    delivered.release(&refused);
    assert!(delivered.held().claimed.is_empty(), "nothing is kept");
    assert!(claimed(&delivered, &old).is_none());
}

/// K8S-8
#[test]
fn an_invalid_or_ending_tenant_keeps_nobody_from_an_issuer() {
    let delivered = DeliveredIssuers::default();
    let new = tenant(NEW, &["https://x"]);
    let mut refused = tenant(OLD, &["https://x"]);
    let verdict = crate::status::Verdict::no(Type::Accepted, Reason::Invalid, "");
    let now = minichat_core::Timestamp::from_micros(0);
    let conditions = crate::status::conditions(&[verdict], &[], Some(1), now);
    Arc::make_mut(&mut refused).status = Some(minichat_crds::chat_tenant::ChatTenantStatus {
        conditions,
        ..Default::default()
    });
    assert_eq!(conflicts(&refused, &new, &delivered).1, None);
    let mut ending = tenant(OLD, &["https://x"]);
    let object = Arc::make_mut(&mut ending);
    object.metadata.deletion_timestamp = object.metadata.creation_timestamp.clone();
    assert_eq!(conflicts(&ending, &new, &delivered).1, None);
}

/// D36: an id alone does not say which tenant lists an issuer.
#[test]
fn what_is_delivered_under_an_id_is_of_its_source_alone() {
    let delivered = DeliveredIssuers::default();
    delivered.set(&secret(OLD, &["https://x"]));
    let mut other = tenant(OLD, &["https://x"]);
    let metadata = &mut Arc::make_mut(&mut other).metadata;
    metadata.namespace = Some("b".to_owned());
    assert_eq!(delivered.own(&Subject::of(&other)), []);
    assert_eq!(delivered.own(&Subject::of(&tenant(OLD, &[]))).len(), 1);
    assert!(
        delivered.claim(&Subject::of(&other), None).is_none(),
        "it has not seen who has the id"
    );
    let _ = delivered.claim(&Subject::of(&other), Some("a/t1")).unwrap();
    assert!(
        claimed(&delivered, &tenant(OLD, &["https://x"])).is_none(),
        "it is being written"
    );

    let new = tenant(NEW, &["https://x"]);
    let message = conflict(&Subject::of(&new), &[Arc::clone(&other)], &delivered).unwrap();
    assert!(
        !message.contains("b/t1"),
        "the name of the holder: {message}"
    );
    Arc::make_mut(&mut other).metadata.namespace = Some("c".to_owned());
    delivered.forget_claims(&Subject::of(&other));
    assert!(!delivered.held().claimed[&render::tenant_id(&other)].is_empty());
}
