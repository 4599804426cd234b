//! Objects that are being deleted and do not go, because a finalizer keeps them.

use std::time::Duration;

use kube::{Resource, ResourceExt as _};
use minichat_core::Timestamp;

/// A deletion that takes longer needs somebody to look at it.
pub(crate) const USUAL: Duration = Duration::from_secs(30);

/// What keeps `object` although it was deleted long before `now`, and what to do; `None` while
/// it is not being deleted, or has not been for long.
pub(crate) fn stuck<K>(object: &K, now: Timestamp) -> Option<String>
where
    K: Resource<DynamicType = ()>,
{
    let since = object.meta().deletion_timestamp.as_ref()?;
    let micros = now.as_micros().saturating_sub(since.0.as_microsecond());
    if micros < i64::try_from(USUAL.as_micros()).unwrap_or(i64::MAX) {
        return None;
    }
    let (kind, name) = (K::kind(&()), object.name_any());
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let finalizers = object.finalizers().join(", ");
    Some(format!(
        "the {kind} {name} in the namespace {namespace} was deleted at {} and is still there, because of its finalizers: \
         {finalizers}; end what they wait for, or remove them: kubectl patch {} {name} --namespace {namespace} --type \
         merge --patch '{{\"metadata\":{{\"finalizers\":null}}}}'",
        since.0,
        kind.to_lowercase(),
    ))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_deleted_for_long_names_its_finalizers_and_the_remedy() {
        let object = |deleted: Option<&str>| -> Secret {
            let metadata = json!({
                "name": "s", "namespace": "a", "deletionTimestamp": deleted,
                "finalizers": ["example.com/one", "example.com/two"],
            });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let begun = Some("2026-01-01T00:00:00Z");
        assert_eq!(stuck(&object(None), at("2026-01-01T01:00:00Z")), None);
        assert_eq!(stuck(&object(begun), at("2026-01-01T00:00:29Z")), None);
        let words = stuck(&object(begun), at("2026-01-01T00:00:30Z")).unwrap();
        let start = "the Secret s in the namespace a was deleted at 2026-01-01T00:00:00Z and is still there, because of \
                     its finalizers: example.com/one, example.com/two; ";
        assert!(words.starts_with(start), "{words}");
        let end = "kubectl patch secret s --namespace a --type merge --patch '{\"metadata\":{\"finalizers\":null}}'";
        assert!(words.ends_with(end), "{words}");
    }
}
