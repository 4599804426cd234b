//! Rendered Secrets whose tenant is gone, removed once at the start (K8S-13):
//! the finalizer removes them otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use minichat_crds::rendered_secret::SOURCE;

use crate::cache::{Caches, names};
use crate::write::Writer;

/// Deletes what is left over.
pub(crate) async fn scan(caches: &Caches, scopes: &[Option<String>], writer: &Writer) {
    let tenants = names(&caches.tenants());
    for secret in left_over(&caches.rendered.store.state(), &tenants, scopes) {
        let name = secret.name_any();
        match writer.delete_rendered(&secret).await {
            Ok(()) => tracing::info!(
                secret = name,
                "a rendered Secret without a tenant is deleted"
            ),
            Err(error) => {
                tracing::warn!(secret = name, %error, "a rendered Secret without a tenant stays");
            }
        }
    }
}

/// Those that came from a namespace that is watched, and from no tenant there.
fn left_over(
    rendered: &[Arc<Secret>],
    tenants: &BTreeSet<String>,
    scopes: &[Option<String>],
) -> Vec<Arc<Secret>> {
    let is_watched = |namespace: &str| {
        scopes
            .iter()
            .any(|scope| scope.as_deref().is_none_or(|scope| scope == namespace))
    };
    let is_left_over = |secret: &&Arc<Secret>| {
        let source = secret.annotations().get(SOURCE);
        source.is_some_and(|source| {
            let namespace = source
                .split_once('/')
                .map_or("", |(namespace, _)| namespace);
            is_watched(namespace) && !tenants.contains(source)
        })
    };
    rendered.iter().filter(is_left_over).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(source: &str) -> Arc<Secret> {
        let mut secret = Secret::default();
        secret
            .annotations_mut()
            .insert(SOURCE.to_owned(), source.to_owned());
        Arc::new(secret)
    }

    #[test]
    fn only_secrets_of_watched_namespaces_without_a_tenant_are_left_over() {
        let rendered = [
            secret("a/gone"),
            secret("a/here"),
            secret("b/gone"),
            Arc::default(),
        ];
        let tenants = BTreeSet::from(["a/here".to_owned()]);
        let sources = |scopes: &[Option<String>]| -> Vec<String> {
            let found = left_over(&rendered, &tenants, scopes);
            found
                .iter()
                .map(|secret| secret.annotations()[SOURCE].clone())
                .collect()
        };
        assert_eq!(sources(&[None]), ["a/gone", "b/gone"]);
        assert_eq!(sources(&[Some("a".to_owned())]), ["a/gone"]);
    }
}
