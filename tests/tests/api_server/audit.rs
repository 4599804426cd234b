//! Tests of the test cluster itself: identities, the audit log, and an API server that stops and starts.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use minichat_cluster::OwnedApiTier;
use minichat_tests::cluster;

use super::fixture::Fixture;

#[tokio::test]
async fn a_service_account_has_its_rights_alone_and_its_writes_are_logged() {
    let fixture = Fixture::new().await;
    let namespace = fixture.namespace.name();
    let accounts: Api<ServiceAccount> = Api::namespaced(fixture.client.clone(), namespace);
    let mut account = ServiceAccount::default();
    account.metadata.name = Some("writer".to_owned());
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let client = cluster::service_account(&fixture.tier.kubeconfig(), namespace, "writer")
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let error = maps
        .create(&PostParams::default(), &ConfigMap::default())
        .await
        .unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}");
    };
    assert!(status.is_forbidden(), "{status:?}");

    let user = format!("system:serviceaccount:{namespace}:writer");
    let started = Instant::now();
    // A line is written after the answer is sent.
    let writes = loop {
        let writes = fixture.tier.writes().unwrap();
        let writes: Vec<_> = writes.into_iter().filter(|w| w.user == user).collect();
        if !writes.is_empty() || started.elapsed() > Fixture::PATIENCE {
            break writes;
        }
    };
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!((writes[0].verb.as_str(), writes[0].code), ("create", 403));
    fixture.end().await;
}

#[tokio::test]
async fn an_api_server_comes_back_where_it_was_with_what_it_had() {
    let tier = tokio::task::spawn_blocking(OwnedApiTier::start)
        .await
        .unwrap()
        .unwrap();
    let client = cluster::client(&tier.kubeconfig()).await.unwrap();
    let namespace = cluster::TestNamespace::create(&client, "stays")
        .await
        .unwrap();
    tier.stop_api_server().unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace.name());
    accounts.list(&ListParams::default()).await.unwrap_err();
    tier.start_api_server().unwrap();
    accounts.list(&ListParams::default()).await.unwrap();
    let directory = tier.directory().to_owned();
    drop(tier);
    assert!(!directory.exists());
}
