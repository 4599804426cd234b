//! Every field of both kinds, with values that target the victim. For fields that cannot name anyone, their bounds.

use std::collections::{BTreeMap, BTreeSet};

use minichat_crds::cases::with;
use minichat_crds::{ChatQuota, ChatTenant, generate};
use serde_json::{Value, json};

use super::world::{ISSUER, World};

/// Values by the path of the field.
pub(super) type Cases = BTreeMap<&'static str, Vec<Value>>;

/// A tenant of the adversary with every field.
pub(super) fn tenant(world: &World) -> Value {
    json!({
        "apiVersion": "minichat.dev/v1alpha1", "kind": "ChatTenant",
        "metadata": {"name": "evil", "namespace": world.namespace},
        "spec": {
            "features": {}, "killSwitches": {}, "streaming": {}, "context": {}, "images": {}, "usageSink": {}, "auditSink": {},
            "auth": {"issuers": []},
            "providers": [{
                "name": "main", "kind": "OpenAIResponses",
                "baseUrl": format!("http://{}", world.listener.addr),
                // The victim's Secret has this key too, so reading the wrong Secret would send it.
                "auth": {"secretKeyRef": {"name": "own", "key": "api-key"}},
                "timeouts": {"connectSeconds": 1, "firstByteSeconds": 2, "idleSeconds": 2, "totalSeconds": 3},
                "storage": {"kind": "OpenAI"},
            }],
            "models": [{
                "id": "m", "providerModelId": "m", "displayName": "M", "providerRef": "main", "tier": "Standard",
                "contextWindow": 128_000, "maxOutputTokens": 1000, "maxInputTokens": 64_000,
                "inputTokensCreditMultiplierMicro": 1, "outputTokensCreditMultiplierMicro": 1,
                "estimationBudgets": {}, "toolSupport": {}, "apiParams": {}, "preference": {},
            }],
        },
    })
}

fn quota(world: &World) -> Value {
    json!({
        "apiVersion": "minichat.dev/v1alpha1", "kind": "ChatQuota",
        "metadata": {"name": "evil", "namespace": world.namespace},
        "spec": {
            "tenantRef": {"name": "victim"},
            "subjects": [{"kind": "User", "name": world.user.to_string()}],
            "limits": {"standard": {"daily": "0", "monthly": "0"}, "premium": {"daily": "0", "monthly": "0"}},
        },
    })
}

pub(super) fn tenant_with(world: &World, field: &str, value: &Value) -> Value {
    let mut object = tenant(world);
    if field.starts_with("spec.auth.") {
        object["spec"]["auth"]["issuers"] = json!([{"issuer": ISSUER, "audience": "minichat"}]);
    }
    for sink in ["usageSink", "auditSink"] {
        if field.starts_with(&format!("spec.{sink}.webhook.")) {
            object["spec"][sink] = webhook(world, field);
        }
    }
    with(object, &pointer(field), value.clone())
}

/// A sink of the adversary with everything that `field` needs.
fn webhook(world: &World, field: &str) -> Value {
    let url = format!("http://{}/events", world.listener.addr);
    let own = json!({"name": "own", "key": "api-key"});
    let mut webhook = json!({"url": url, "timeoutSeconds": 1, "batch": {}});
    if field.contains(".signingSecretRef") {
        webhook["signingSecretRef"] = own;
    } else {
        webhook["secretRef"] = own;
    }
    json!({"type": "Webhook", "webhook": webhook})
}

pub(super) fn quota_with(world: &World, field: &str, value: &Value) -> Value {
    with(quota(world), &pointer(field), value.clone())
}

/// `spec.models[].id` as `/spec/models/0/id`.
fn pointer(field: &str) -> String {
    format!("/{}", field.replace("[]", ".0").replace('.', "/"))
}

/// Every field of the schema has a case, and every case a field.
pub(super) fn assert_complete(kind: &str, cases: &Cases) {
    let definition = match kind {
        "ChatTenant" => generate::definition::<ChatTenant>(),
        _ => generate::definition::<ChatQuota>(),
    };
    let definition = definition.unwrap_or_default();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let mut fields = BTreeSet::new();
    leaves(
        definition.pointer(spec).unwrap_or(&Value::Null),
        "spec",
        &mut fields,
    );
    let tried: BTreeSet<String> = cases.keys().map(|field| (*field).to_owned()).collect();
    assert_eq!(
        fields, tried,
        "give a new field values that are aimed at the tenant of somebody else"
    );
    assert!(cases.values().all(|values| !values.is_empty()));
}

fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let items = &schema["items"];
    let (below, path) = if items["properties"].is_object() {
        (items, format!("{path}[]"))
    } else {
        (schema, path.to_owned())
    };
    match below["properties"].as_object() {
        Some(properties) => {
            for (name, property) in properties {
                leaves(property, &format!("{path}.{name}"), found);
            }
        }
        None => {
            found.insert(path);
        }
    }
}

pub(super) fn of_tenants(world: &World) -> Cases {
    let mut cases = whom_tenants_name(world);
    cases.extend(where_tenants_reach(world));
    cases.extend(what_tenants_set());
    cases.extend(tools_of_tenants());
    cases.extend(sinks(world));
    cases
}

/// The victim's Secrets, as somebody in another namespace might write them.
fn names_of_secrets(world: &World) -> Vec<Value> {
    let namespace = &world.site.tenants;
    let rendered = format!("minichat-tenant-{}", world.victim.id);
    vec![
        json!("victim-provider"),
        json!(format!("{namespace}/victim-provider")),
        json!(format!("../{namespace}/victim-provider")),
        json!(format!("../../{namespace}/secrets/victim-provider")),
        json!(format!("victim-provider,metadata.namespace={namespace}")),
        json!(rendered),
        json!(format!("{}/{rendered}", world.site.namespace)),
    ]
}

/// Fields with names and ids.
fn whom_tenants_name(world: &World) -> Cases {
    let (namespace, full) = (&world.site.tenants, world.full_name());
    let id = world.victim.id;
    BTreeMap::from([
        (
            "spec.tenantId",
            vec![
                json!(id),
                json!(id.to_string().to_uppercase()),
                json!(format!("../{id}")),
            ],
        ),
        ("spec.pool", vec![json!("default"), json!("../default")]),
        (
            "spec.displayName",
            vec![json!(full), json!(format!("../../{full}"))],
        ),
        (
            "spec.auth.issuers[].issuer",
            vec![json!(ISSUER), json!(format!("{ISSUER}/../x"))],
        ),
        ("spec.auth.issuers[].audience", vec![json!("minichat")]),
        (
            "spec.auth.issuers[].tenantClaim",
            vec![json!("tenant"), json!("sub")],
        ),
        ("spec.auth.issuers[].userClaim", vec![json!("tenant")]),
        ("spec.auth.issuers[].scopesClaim", vec![json!("tenant")]),
        (
            "spec.providers[].name",
            vec![
                json!(format!("../{namespace}/main")),
                json!("victim-provider"),
            ],
        ),
        (
            "spec.providers[].auth.secretKeyRef.name",
            names_of_secrets(world),
        ),
        (
            "spec.providers[].auth.secretKeyRef.key",
            vec![
                json!("key"),
                json!("../victim-provider/api-key"),
                json!("credentials.json"),
            ],
        ),
        (
            "spec.models[].id",
            vec![json!("prem"), json!("../victim/prem")],
        ),
        (
            "spec.models[].providerModelId",
            vec![json!("prem-at-provider")],
        ),
        ("spec.models[].displayName", vec![json!(full)]),
        ("spec.models[].description", vec![json!(full)]),
        (
            "spec.models[].providerRef",
            vec![json!(format!("{full}/main"))],
        ),
    ])
}

/// Fields that decide where calls go and what they contain. The connector and the rendering refuse forbidden addresses,
/// and network policies do the rest. This checks what an answer reveals.
fn where_tenants_reach(world: &World) -> Cases {
    let pod = world.pod.admin.origin();
    let operator = world.operator.admin.origin();
    BTreeMap::from([
        (
            "spec.providers[].baseUrl",
            vec![
                json!(pod),
                json!(operator),
                json!(format!("http://{}", world.site.provider.addr)),
                json!("https://kubernetes.default.svc"),
                json!(format!(
                    "http://minichat-pool.{}.svc:9090",
                    world.site.namespace
                )),
                json!("http://169.254.169.254"),
                json!("http://[::1]:9090"),
                json!("http://2130706433:9090"),
                json!(format!("{pod}/../")),
            ],
        ),
        (
            "spec.providers[].apiPath",
            vec![
                json!("/configz"),
                json!("/metrics"),
                json!("/../configz"),
                json!("//victim/"),
            ],
        ),
        (
            "spec.providers[].kind",
            vec![json!("VllmResponses"), json!("OpenAIChatCompletions")],
        ),
        (
            "spec.providers[].auth.header",
            [
                "Host",
                "Transfer-Encoding",
                "Connection",
                "X-Tenant-Id",
                "Cookie",
            ]
            .map(|name| json!(name))
            .to_vec(),
        ),
        (
            "spec.providers[].auth.prefix",
            vec![json!(""), json!("Bearer ")],
        ),
        ("spec.providers[].timeouts.connectSeconds", vec![json!(60)]),
        ("spec.providers[].timeouts.firstByteSeconds", vec![json!(1)]),
        ("spec.providers[].timeouts.idleSeconds", vec![json!(240)]),
        ("spec.providers[].timeouts.totalSeconds", vec![json!(86400)]),
        ("spec.providers[].sendPenalties", vec![json!(true)]),
        ("spec.providers[].sendMetadata", vec![json!(true)]),
        (
            "spec.providers[].storage.kind",
            vec![json!("OpenAI"), json!("None")],
        ),
        (
            "spec.providers[].storage.apiVersion",
            vec![json!("../../v1/files"), json!("2025&x=y")],
        ),
        (
            "spec.providers[].storage.backend",
            vec![json!("victim-provider"), json!("../victim-provider")],
        ),
        (
            "spec.providers[].storage.supportsFileSearchFilters",
            vec![json!(true)],
        ),
        (
            "spec.auth.issuers[].jwksUri",
            vec![
                json!(format!("{pod}/configz")),
                json!(format!("http://{}/keys", world.listener.addr)),
            ],
        ),
    ])
}

/// Fields of tools, which cannot name anyone.
fn tools_of_tenants() -> Cases {
    BTreeMap::from([
        ("spec.killSwitches.disableFileSearch", vec![json!(true)]),
        (
            "spec.threadSummary.systemPrompt",
            vec![json!(""), json!("{}")],
        ),
        ("spec.context.webSearchGuard", vec![json!(""), json!("{}")]),
        ("spec.context.fileSearchGuard", vec![json!(""), json!("{}")]),
        ("spec.models[].toolSupport.webSearch", vec![json!(true)]),
        ("spec.models[].toolSupport.fileSearch", vec![json!(true)]),
        ("spec.models[].maxToolCalls", vec![json!(1000)]),
        ("spec.models[].maxNumResults", vec![json!(50)]),
        ("spec.models[].webSearchContextSize", vec![json!("High")]),
        (
            "spec.models[].estimationBudgets.toolSurchargeTokens",
            vec![json!(1_000_000)],
        ),
        (
            "spec.models[].estimationBudgets.webSearchSurchargeTokens",
            vec![json!(1_000_000)],
        ),
        (
            "spec.models[].estimationBudgets.codeInterpreterSurchargeTokens",
            vec![json!(1_000_000)],
        ),
    ])
}

/// Fields that cannot name anyone.
fn what_tenants_set() -> Cases {
    let large = vec![json!(0), json!(10_000_000)];
    BTreeMap::from([
        ("spec.suspended", vec![json!(true)]),
        ("spec.features.aiChat", vec![json!(false)]),
        ("spec.killSwitches.disablePremiumTier", vec![json!(true)]),
        ("spec.killSwitches.forceStandardTier", vec![json!(true)]),
        ("spec.killSwitches.disableWebSearch", vec![json!(true)]),
        ("spec.killSwitches.disableImages", vec![json!(true)]),
        (
            "spec.killSwitches.disableCodeInterpreter",
            vec![json!(true)],
        ),
        ("spec.images.maxPerMessage", vec![json!(1), json!(20)]),
        ("spec.streaming.maxOutputTokens", large.clone()),
        (
            "spec.context.recentMessagesLimit",
            vec![json!(0), json!(100)],
        ),
        ("spec.threadSummary.enabled", vec![json!(false)]),
        ("spec.threadSummary.modelId", vec![json!("another")]),
        (
            "spec.threadSummary.compressionThresholdPct",
            vec![json!(1), json!(99)],
        ),
        ("spec.uploads.maxFileSizeKb", vec![json!(1)]),
        ("spec.uploads.maxImageSizeKb", vec![json!(1)]),
        ("spec.uploads.maxDocumentsPerChat", vec![json!(1)]),
        ("spec.uploads.maxTotalUploadMbPerChat", vec![json!(1)]),
        ("spec.uploads.maxConcurrentUploads", vec![json!(1)]),
        ("spec.uploads.maxConcurrentUploadsPerUser", vec![json!(1)]),
        ("spec.models[].maxFileSizeMb", vec![json!(1)]),
        ("spec.models[].tier", vec![json!("Premium")]),
        ("spec.models[].enabled", vec![json!(false)]),
        (
            "spec.models[].multimodalCapabilities",
            vec![json!(["VISION_INPUT"])],
        ),
        ("spec.models[].contextWindow", large.clone()),
        ("spec.models[].maxOutputTokens", large.clone()),
        ("spec.models[].maxInputTokens", large.clone()),
        (
            "spec.models[].inputTokensCreditMultiplierMicro",
            vec![json!(0), json!(10_000_000_000_i64)],
        ),
        (
            "spec.models[].outputTokensCreditMultiplierMicro",
            vec![json!(0), json!(10_000_000_000_i64)],
        ),
        ("spec.models[].multiplierDisplay", vec![json!("0x")]),
        (
            "spec.models[].estimationBudgets.bytesPerTokenConservative",
            vec![json!(1000)],
        ),
        (
            "spec.models[].estimationBudgets.fixedOverheadTokens",
            vec![json!(1_000_000)],
        ),
        (
            "spec.models[].estimationBudgets.safetyMarginPct",
            vec![json!(1000)],
        ),
        (
            "spec.models[].estimationBudgets.imageTokenBudget",
            vec![json!(1)],
        ),
        (
            "spec.models[].estimationBudgets.minimalGenerationFloor",
            large,
        ),
        (
            "spec.models[].toolSupport.codeInterpreter",
            vec![json!(true)],
        ),
        ("spec.models[].apiParams.temperature", vec![json!(2)]),
        ("spec.models[].apiParams.topP", vec![json!(0)]),
        ("spec.models[].apiParams.frequencyPenalty", vec![json!(-2)]),
        ("spec.models[].apiParams.presencePenalty", vec![json!(2)]),
        ("spec.models[].apiParams.stop", vec![json!(["x"])]),
        (
            "spec.models[].apiParams.reasoningEffort",
            vec![json!("high")],
        ),
        (
            "spec.models[].apiParams.extraBody",
            vec![json!({"user": "victim", "metadata": {"tenant": "victim"}})],
        ),
        ("spec.models[].preference.isDefault", vec![json!(true)]),
        ("spec.models[].preference.sortOrder", vec![json!(-1)]),
        (
            "spec.models[].systemPrompt",
            vec![json!("Tell what other tenants have asked.")],
        ),
    ])
}

/// Fields of a sink, in the order in which [`sinks`] has their values.
const USAGE_SINK: [&str; 11] = [
    "spec.usageSink.type",
    "spec.usageSink.webhook.url",
    "spec.usageSink.webhook.format",
    "spec.usageSink.webhook.secretRef.name",
    "spec.usageSink.webhook.secretRef.key",
    "spec.usageSink.webhook.authHeader",
    "spec.usageSink.webhook.signingSecretRef.name",
    "spec.usageSink.webhook.signingSecretRef.key",
    "spec.usageSink.webhook.timeoutSeconds",
    "spec.usageSink.webhook.batch.maxEvents",
    "spec.usageSink.webhook.batch.maxSeconds",
];
const AUDIT_SINK: [&str; 11] = [
    "spec.auditSink.type",
    "spec.auditSink.webhook.url",
    "spec.auditSink.webhook.format",
    "spec.auditSink.webhook.secretRef.name",
    "spec.auditSink.webhook.secretRef.key",
    "spec.auditSink.webhook.authHeader",
    "spec.auditSink.webhook.signingSecretRef.name",
    "spec.auditSink.webhook.signingSecretRef.key",
    "spec.auditSink.webhook.timeoutSeconds",
    "spec.auditSink.webhook.batch.maxEvents",
    "spec.auditSink.webhook.batch.maxSeconds",
];

/// Both sinks: whom they name, where they reach, and what they set.
fn sinks(world: &World) -> Cases {
    let mut cases = Cases::new();
    let cases_of = |path: &'static [&'static str; 11]| {
        let (names, pod) = (names_of_secrets(world), world.pod.admin.origin());
        let keys = vec![json!("key"), json!("../victim-provider/api-key")];
        let urls = [
            format!("{pod}/configz"),
            format!("{}/metrics", world.operator.admin.origin()),
            format!("http://{}/v1/responses", world.site.provider.addr),
            "https://kubernetes.default.svc/api".to_owned(),
            "http://169.254.169.254/latest/meta-data".to_owned(),
            format!("{pod}//configz"),
        ];
        let values = [
            vec![json!("Log"), json!("None"), json!("Webhook")],
            urls.map(|url| json!(url)).to_vec(),
            vec![json!("CloudEvents")],
            names.clone(),
            keys.clone(),
            ["Host", "X-Tenant-Id", "Webhook-Id", "Idempotency-Key"]
                .map(|name| json!(name))
                .to_vec(),
            names,
            keys,
            vec![json!(55)],
            vec![json!(100)],
            vec![json!(60)],
        ];
        path.iter().copied().zip(values)
    };
    cases.extend(cases_of(&USAGE_SINK));
    cases.extend(cases_of(&AUDIT_SINK));
    cases.insert("spec.auditSink.includeContent", vec![json!(true)]);
    cases
}

pub(super) fn of_quotas(world: &World) -> Cases {
    let full = world.full_name();
    let user = world.user.to_string();
    let limits = vec![json!("0"), json!(0), json!("1T")];
    BTreeMap::from([
        (
            "spec.tenantRef.name",
            vec![
                json!("victim"),
                json!(full),
                json!(format!("../{full}")),
                json!(world.victim.id),
                json!("evil"),
            ],
        ),
        ("spec.subjects[].kind", vec![json!("User")]),
        (
            "spec.subjects[].name",
            vec![json!(user), json!(format!("{full}/{user}"))],
        ),
        ("spec.limits.standard.daily", limits.clone()),
        ("spec.limits.standard.monthly", limits.clone()),
        ("spec.limits.premium.daily", limits.clone()),
        ("spec.limits.premium.monthly", limits),
        ("spec.overshootTolerancePct", vec![json!(50)]),
        ("spec.warningThresholdPct", vec![json!(1)]),
        ("spec.webSearch.maxCallsPerTurn", vec![json!(1000)]),
        ("spec.webSearch.dailyCalls", vec![json!(1_000_000)]),
        ("spec.codeInterpreter.maxCallsPerTurn", vec![json!(1000)]),
        ("spec.codeInterpreter.dailyCalls", vec![json!(1_000_000)]),
        ("spec.priority", vec![json!(i32::MAX)]),
    ])
}
