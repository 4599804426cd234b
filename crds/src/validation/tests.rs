//! Rules, structure and defaults, as on an API server.

use std::collections::BTreeSet;

use minichat_config::Faults;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Credits;
use crate::cases::{Case, cases, quota, tenant, with};

fn validate(object: &Value, old: Option<&Value>) -> Result<Value, Faults> {
    match object["kind"].as_str() {
        Some("ChatTenant") => CHAT_TENANT.validate(object, old),
        _ => CHAT_QUOTA.validate(object, old),
    }
}

/// The rules of one node of a schema.
fn rules_of(node: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let rules = node.get("x-kubernetes-validations");
    rules.and_then(Value::as_array).into_iter().flatten()
}

fn only_fault(object: &Value) -> (String, String) {
    let faults = validate(object, None).unwrap_err();
    assert_eq!(faults.0.len(), 1, "{faults}");
    let fault = faults.0.into_iter().next().unwrap();
    (fault.path, fault.message)
}

/// K8S-6
#[test]
fn every_case_is_accepted_and_refused_with_its_message_alone() {
    for Case {
        rule: _,
        message,
        path,
        old,
        accepted,
        refused,
    } in cases()
    {
        validate(&accepted, old.as_ref()).unwrap_or_else(|faults| panic!("{message}: {faults}"));
        let faults = validate(&refused, old.as_ref()).expect_err(message);
        let found: Vec<_> = faults
            .0
            .iter()
            .map(|f| (f.path.as_str(), f.message.as_str()))
            .collect();
        assert_eq!(found, [(path, message)]);
    }
}

/// K8S-6
#[test]
fn every_rule_of_the_schemas_has_a_case() {
    /// Of each rule the message and whether an expression makes another one.
    fn messages(node: &Value, found: &mut BTreeSet<(String, bool)>) {
        match node {
            Value::Object(map) => {
                for rule in rules_of(map) {
                    let message = rule["message"].as_str().unwrap().to_owned();
                    found.insert((message, rule.get("messageExpression").is_some()));
                }
                map.values().for_each(|child| messages(child, found));
            }
            Value::Array(items) => items.iter().for_each(|child| messages(child, found)),
            _ => {}
        }
    }
    let mut written = BTreeSet::new();
    messages(&CHAT_TENANT.schema, &mut written);
    messages(&CHAT_QUOTA.schema, &mut written);
    let tried: BTreeSet<_> = cases()
        .into_iter()
        .map(|case| (case.rule.to_owned(), case.message != case.rule))
        .collect();
    assert_eq!(written, tried);
}

#[test]
fn every_rule_compiles() {
    fn walk(rules: &Value) {
        match rules {
            Value::Object(map) => {
                for rule in rules_of(map) {
                    let sources = ["rule", "messageExpression"].map(|key| rule[key].as_str());
                    for source in sources.into_iter().flatten() {
                        kube_cel::cel::Program::compile(source)
                            .unwrap_or_else(|e| panic!("{source}: {e}"));
                    }
                }
                map.values().for_each(walk);
            }
            Value::Array(items) => items.iter().for_each(walk),
            _ => {}
        }
    }
    walk(&CHAT_TENANT.schema);
    walk(&CHAT_QUOTA.schema);
}

/// K8S-5: defaults, also inside of defaults, and null as absent.
#[test]
fn defaults_are_filled_in() {
    let stored = validate(&with(tenant(), "/spec/displayName", Value::Null), None).unwrap();
    let spec = &stored["spec"];
    assert_eq!(spec["displayName"], "");
    assert_eq!(spec["features"]["aiChat"], true);
    assert_eq!(spec["streaming"]["maxOutputTokens"], 32768);
    assert_eq!(spec["context"]["recentMessagesLimit"], 10);
    assert_eq!(spec["providers"][0]["timeouts"]["idleSeconds"], 240);
    assert_eq!(
        spec["models"][0]["estimationBudgets"]["minimalGenerationFloor"],
        50
    );
    assert_eq!(spec["models"][0]["enabled"], true);
    let spec = &validate(&quota(), None).unwrap()["spec"];
    assert_eq!(spec["limits"]["premium"]["monthly"], "500");
    assert_eq!(spec["overshootTolerancePct"], 10);
    let partial = with(quota(), "/spec/limits", json!({"standard": {"daily": 7}}));
    let spec = &validate(&partial, None).unwrap()["spec"];
    assert_eq!(
        spec["limits"]["standard"],
        json!({"daily": 7, "monthly": "1000"})
    );
    assert_eq!(spec["limits"]["premium"]["daily"], "50");
}

#[test]
fn unknown_fields_are_refused_with_the_right_spelling() {
    let (path, message) = only_fault(&with(tenant(), "/spec/displayname", json!("x")));
    assert_eq!(
        (path.as_str(), message.as_str()),
        ("spec.displayname", "unknown field; write displayName")
    );
    let (path, message) = only_fault(&with(tenant(), "/spec/models/0/colour", json!(1)));
    assert_eq!(path, "spec.models[0].colour");
    assert!(
        message.starts_with("unknown field; known are "),
        "{message}"
    );
    assert_eq!(
        only_fault(&with(tenant(), "/metadata/nmae", json!("x"))).0,
        "metadata.nmae"
    );
    assert_eq!(only_fault(&with(tenant(), "/sepc", json!({}))).0, "sepc");
}

/// D18: YAML reads a fraction as a float, which Kubernetes keeps out of its API.
#[test]
fn a_fraction_without_quotes_is_refused_with_the_text_to_write() {
    for (written, told) in [
        (json!(1.5), "a fraction must be quoted; write \"1.5\""),
        (json!(1e-6), "a fraction must be quoted; write \"0.000001\""),
    ] {
        let limits = json!({"premium": {"daily": written}});
        let (path, message) = only_fault(&with(quota(), "/spec/limits", limits));
        assert_eq!(
            (path.as_str(), message.as_str()),
            ("spec.limits.premium.daily", told)
        );
        let quoted = told.split('"').nth(1).unwrap();
        let limits = json!({"premium": {"daily": quoted}});
        validate(&with(quota(), "/spec/limits", limits), None).unwrap();
    }
}

/// `extraBody` alone takes anything.
#[test]
fn extra_body_is_kept_as_it_is() {
    let body = json!({"anything": [null, {"nested": 1.5}]});
    let object = with(
        tenant(),
        "/spec/models/0/apiParams",
        json!({"extraBody": body}),
    );
    let stored = validate(&object, None).unwrap();
    assert_eq!(stored["spec"]["models"][0]["apiParams"]["extraBody"], body);
}

#[test]
#[expect(clippy::too_many_lines, reason = "two tables of cases")]
fn types_enums_bounds_and_list_keys_are_checked() {
    let model = &tenant()["spec"]["models"][0];
    for (pointer, value, path) in [
        ("/spec/suspended", json!("yes"), "spec.suspended"),
        ("/spec/models", json!({}), "spec.models"),
        (
            "/spec/models/0/tier",
            json!("premium"),
            "spec.models[0].tier",
        ),
        (
            "/spec/models/0/contextWindow",
            json!(0),
            "spec.models[0].contextWindow",
        ),
        (
            "/spec/models/0/contextWindow",
            json!(1.5),
            "spec.models[0].contextWindow",
        ),
        (
            "/spec/models/0/contextWindow",
            json!(10_000_001),
            "spec.models[0].contextWindow",
        ),
        (
            "/spec/models/0/displayName",
            json!(""),
            "spec.models[0].displayName",
        ),
        (
            "/spec/models/0/inputTokensCreditMultiplierMicro",
            json!(-1),
            "spec.models[0].inputTokensCreditMultiplierMicro",
        ),
        ("/spec/models", json!([model, model]), "spec.models[1]"),
        ("/spec/providers", json!([]), "spec.providers"),
        (
            "/spec/providers/0/kind",
            json!("OpenAiResponses"),
            "spec.providers[0].kind",
        ),
        (
            "/spec/providers/0/timeouts",
            json!({"idleSeconds": 241}),
            "spec.providers[0].timeouts.idleSeconds",
        ),
        (
            "/spec/tenantId",
            json!("5F0C2F4E-8F0D-4C6B-9A43-0D7B8F6F1A01"),
            "spec.tenantId",
        ),
        (
            "/spec/context",
            json!({"recentMessagesLimit": 101}),
            "spec.context.recentMessagesLimit",
        ),
        (
            "/spec/models/0/apiParams",
            json!({"temperature": 2.5}),
            "spec.models[0].apiParams.temperature",
        ),
        ("/spec", Value::Null, "spec"),
        ("/metadata/name", json!("Acme"), "metadata.name"),
        ("/apiVersion", json!("minichat.dev/v1"), "apiVersion"),
    ] {
        assert_eq!(
            only_fault(&with(tenant(), pointer, value)).0,
            path,
            "{pointer}"
        );
    }
    for (pointer, value, path) in [
        (
            "/spec/subjects",
            json!([{"kind": "Group", "name": "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"}]),
            "spec.subjects[0].kind",
        ),
        (
            "/spec/subjects",
            json!([{"kind": "User", "name": ""}]),
            "spec.subjects[0].name",
        ),
        (
            "/spec/overshootTolerancePct",
            json!(51),
            "spec.overshootTolerancePct",
        ),
        (
            "/spec/warningThresholdPct",
            json!(0),
            "spec.warningThresholdPct",
        ),
        ("/spec/priority", json!(3_000_000_000_i64), "spec.priority"),
        ("/spec/tenantRef", json!({}), "spec.tenantRef.name"),
        (
            "/spec/limits",
            json!({"standard": {"daily": "many"}}),
            "spec.limits.standard.daily",
        ),
    ] {
        assert_eq!(
            only_fault(&with(quota(), pointer, value)).0,
            path,
            "{pointer}"
        );
    }
}

proptest! {
    /// D18: what the rules accept is read exactly, what they refuse is not read
    /// otherwise.
    #[test]
    fn the_rules_of_a_quantity_accept_only_what_can_be_read(text in "[+-]?[0-9]{1,14}([.][0-9]{1,8})?[numkMGT]?") {
        let object = with(quota(), "/spec/limits", json!({"standard": {"daily": text}}));
        if let Ok(quota) = chat_quota(&object, None) {
            prop_assert_eq!(Ok(quota.spec.limits.standard.daily), Credits::parse(&text));
        } else {
            // Stricter only in writing: superfluous zeros behind the point.
            let fraction = text.split_once('.').is_some_and(|(_, f)| f.contains('0'));
            let zeros = text.ends_with("0n") || text.starts_with('-') || text.contains(['k', 'M', 'G', 'T']);
            prop_assert!(fraction || zeros || Credits::parse(&text).is_err(), "{}", text);
        }
    }
}

/// D48: the rule of the definition and the check of the rendered document are
/// one table, so that neither lets in what the other refuses.
#[test]
fn headers_that_carry_no_credential_are_refused_in_every_spelling() {
    use minichat_config::tenant::request_line::{REFUSED_HEADERS, may_carry_credential};

    let stored = |name: &str| {
        let auth = json!({"header": name, "secretKeyRef": {"name": "main", "key": "key"}});
        validate(&with(tenant(), "/spec/providers/0/auth", auth), None).is_ok()
    };
    for refused in REFUSED_HEADERS {
        for ending in ["", "x", "-x"] {
            let name = refused.replace('*', ending);
            let titled: String = name
                .split('-')
                .map(|word| word.split_at(word.len().min(1)))
                .map(|(first, rest)| first.to_ascii_uppercase() + rest)
                .collect::<Vec<_>>()
                .join("-");
            for spelling in [name.to_ascii_uppercase(), titled, name] {
                assert!(!may_carry_credential(&spelling), "{spelling}");
                assert!(!stored(&spelling), "{spelling}");
            }
        }
    }
    for allowed in ["Authorization", "api-key", "x.api.key", "hosts", "X_Auth~1"] {
        assert!(
            may_carry_credential(allowed) && stored(allowed),
            "{allowed}"
        );
    }
}
