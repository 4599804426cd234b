//! Attacks by means other than the fields of a spec.

use serde_json::{Value, json};

use super::fields::tenant;
use super::world::World;

type Attack = (&'static str, Value);

/// Tenants whose metadata is copied from the victim or refers to it.
pub(super) fn of_metadata(world: &World) -> Vec<Attack> {
    let uid = world.before("ChatTenant")["metadata"]["uid"].clone();
    let evil = tenant(world);
    let changed = |key: &str, value: Value| {
        let mut object = evil.clone();
        object["metadata"][key] = value;
        object
    };
    let annotations = json!({
        "minichat.dev/source": world.full_name(),
        "minichat.dev/source-uid": uid,
        "minichat.dev/revision": world.before("rendered")["metadata"]["annotations"]["minichat.dev/revision"],
    });
    let labels = json!({
        "minichat.dev/pool": "default", "minichat.dev/tenant": "victim", "minichat.dev/credentials": "true",
        "app.kubernetes.io/instance": "victim", "app.kubernetes.io/managed-by": "minichat-operator",
    });
    let owner = json!([{
        "apiVersion": "minichat.dev/v1alpha1", "kind": "ChatTenant", "name": "victim", "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let mut exported = world.before("ChatTenant").clone();
    exported["metadata"] = json!({
        "name": "victim", "namespace": world.namespace, "uid": uid, "generation": 7,
        "annotations": annotations, "finalizers": ["example.com/kept"],
    });
    vec![
        ("the victim's name", changed("name", json!("victim"))),
        (
            "the victim's annotations",
            changed("annotations", annotations.clone()),
        ),
        ("the victim's labels", changed("labels", labels)),
        ("the victim as owner", changed("ownerReferences", owner)),
        (
            "a finalizer that stays",
            changed("finalizers", json!(["example.com/kept"])),
        ),
        (
            "the operator's finalizer",
            changed("finalizers", json!(["minichat.dev/tenant"])),
        ),
        ("the victim's uid", changed("uid", uid)),
        (
            "the victim's namespace",
            changed("namespace", json!(world.site.tenants)),
        ),
        (
            "the operator's namespace",
            changed("namespace", json!(world.site.namespace)),
        ),
        ("the exported victim", exported),
    ]
}

/// Statuses that the adversary writes on its own tenant.
pub(super) fn of_status(world: &World) -> Vec<Attack> {
    let victim = world.before("ChatTenant")["status"].clone();
    let mut other_id = victim.clone();
    other_id["tenantId"] = json!(world.victim.id);
    other_id["policyVersion"] = json!(i64::MAX);
    let conflict = json!({"conditions": [{
        "type": "Accepted", "status": "True", "reason": "Valid", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }]});
    vec![
        ("the victim's status", victim),
        ("the victim's id and the highest number", other_id),
        ("a condition of its own", conflict),
    ]
}

/// Secrets that imitate those of the operator or of the victim.
pub(super) fn of_secrets(world: &World) -> Vec<Attack> {
    let mut rendered = world.before("rendered").clone();
    let metadata = rendered["metadata"].take();
    let name = format!("minichat-tenant-{}", world.victim.id);
    let labels = json!({"minichat.dev/pool": "default", "minichat.dev/credentials": "true"});
    rendered["metadata"] = json!({
        "name": name, "namespace": world.namespace, "labels": labels, "annotations": metadata["annotations"],
    });
    rendered["data"] = Value::Null;
    rendered["stringData"] = json!({"tenant.json": "{\"schema\": 1}", "credentials.json": "{}"});
    let named = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": world.namespace, "labels": labels},
            "stringData": {"api-key": "sk-of-the-adversary"},
        })
    };
    vec![
        ("a rendered Secret of the victim's", rendered),
        (
            "the name of the victim's Secret",
            named(
                "victim-provider",
                json!({"minichat.dev/credentials": "true"}),
            ),
        ),
        (
            "a Secret with the labels of a pool",
            named("pool", json!({"minichat.dev/pool": "default"})),
        ),
    ]
}

/// Tenants that are refused or wait, each for another reason.
pub(super) fn broken(world: &World, number: usize) -> Vec<Attack> {
    let named = |what: &str, pointer: &str, value: Value| {
        let mut object = minichat_crds::cases::with(tenant(world), pointer, value);
        object["metadata"]["name"] = json!(format!("{what}-{number}"));
        object
    };
    let reference = "/spec/providers/0/auth/secretKeyRef";
    let nowhere = json!("http://127.0.0.1:9");
    vec![
        (
            "the victim's id",
            named("id", "/spec/tenantId", json!(world.victim.id)),
        ),
        (
            "no Secret",
            named(
                "secret",
                reference,
                json!({"name": "none", "key": "api-key"}),
            ),
        ),
        (
            "no key",
            named("key", reference, json!({"name": "own", "key": "none"})),
        ),
        (
            "a provider that is not there",
            named("provider", "/spec/providers/0/baseUrl", nowhere),
        ),
    ]
}
