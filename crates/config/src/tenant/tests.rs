//! Documents that are accepted, and every bound.

use serde_json::{Value, json};

use super::*;

const USER: &str = "1c7e0000-0000-4000-8000-000000000001";

fn model(id: &str, tier: &str) -> Value {
    json!({
        "id": id, "provider_model_id": format!("{id}-2026"), "display_name": id,
        "provider_id": "openai", "tier": tier, "enabled": true,
        "context_window": 128_000, "max_output_tokens": 4096, "max_input_tokens": 64_000,
        "input_tokens_credit_multiplier_micro": 1_000_000,
        "output_tokens_credit_multiplier_micro": 2_000_000,
    })
}

fn document() -> Value {
    json!({
        "schema": 1,
        "tenant_id": "5f0c0000-0000-4000-8000-000000000000",
        "max_output_tokens": 32768,
        "providers": {"openai": {
            "kind": "openai_responses", "host": "api.openai.com",
            "auth": {"header": "Authorization", "prefix": "Bearer ", "secret_ref": "openai/key"},
        }},
        "model_catalog": [model("small", "standard"), model("large", "Premium")],
        "user_limits": {"default": {}, "by_user": {USER: {"overshoot_tolerance_pct": 0}}},
    })
}

fn read(document: &Value) -> Result<TenantConfig, Faults> {
    TenantConfig::from_json(&document.to_string())
}

#[test]
fn defaults_fill_what_the_document_leaves_out() {
    let config = read(&document()).unwrap();
    assert!(config.features.ai_chat && !config.suspended);
    assert_eq!(config.context.recent_messages_limit, 10);
    let provider = &config.providers["openai"];
    assert_eq!(provider.authority(), "api.openai.com");
    assert_eq!(provider.api_path, "/v1/responses");
    assert_eq!(provider.timeouts, ProviderTimeouts::default());
    assert!(provider.send_metadata && !provider.send_penalties);
    let model = config.model("large").unwrap();
    assert_eq!(model.tier, Tier::Premium);
    assert_eq!(model.estimation_budgets, EstimationBudgets::default());
    assert_eq!(config.provider_of(model).unwrap().id, "openai");
    assert_eq!(config.policy_version, None);
    assert_eq!(config.numbered(3).policy_version, Some(3));
}

/// PLAT-108
#[test]
fn penalties_are_sent_by_default_except_to_the_public_responses_api() {
    for (kind, sent) in [
        ("openai_responses", false),
        ("openai_chat_completions", true),
        ("vllm_responses", true),
    ] {
        let mut document = document();
        document["providers"]["openai"]["kind"] = json!(kind);
        assert_eq!(
            read(&document).unwrap().providers["openai"].send_penalties,
            sent,
            "{kind}"
        );
    }
}

/// CONT-30: manifests that name no storage remain valid.
#[test]
fn files_are_stored_at_the_provider_unless_its_kind_has_no_files() {
    for (kind, stores) in [
        ("openai_responses", true),
        ("openai_chat_completions", true),
        ("vllm_responses", false),
    ] {
        let mut document = document();
        document["providers"]["openai"]["kind"] = json!(kind);
        let expected = stores.then(|| Storage {
            api: StorageApi::OpenAi,
            backend: "openai".to_owned(),
            supports_file_search_filters: true,
        });
        let config = read(&document).unwrap();
        assert_eq!(config.providers["openai"].storage, expected, "{kind}");
        let found = config.provider_of_storage("openai");
        assert_eq!(found.is_some(), stores, "{kind}");
    }
    let mut document = document();
    document["providers"]["openai"]["storage"] = json!({"kind": "none"});
    assert_eq!(read(&document).unwrap().providers["openai"].storage, None);
}

/// CONT-30, PLAT-112
#[test]
fn azure_needs_an_api_version_and_nothing_else_has_one() {
    let mut document = document();
    let fault = |document: &Value| read(document).unwrap_err().0[0].path.clone();
    let path = "providers.openai.storage.api_version";
    for storage in [
        json!({"kind": "azure"}),
        json!({"kind": "azure", "api_version": ""}),
        json!({"kind": "azure", "api_version": "2025&x=y"}),
        json!({"kind": "openai", "api_version": "2025-04-01"}),
        json!({"api_version": "2025-04-01"}),
    ] {
        document["providers"]["openai"]["storage"] = storage.clone();
        assert_eq!(fault(&document), path, "{storage}");
    }
    let storage = json!({"kind": "azure", "api_version": "2025-04-01-preview"});
    document["providers"]["openai"]["storage"] = storage;
    let config = read(&document).unwrap();
    let storage = config.providers["openai"].storage.as_ref().unwrap();
    assert!(!storage.supports_file_search_filters);
    let path = storage.api.path("files");
    assert_eq!(path, "/openai/files?api-version=2025-04-01-preview");
}

/// CONT-38, CONT-167
#[test]
fn a_label_leads_to_one_provider_and_ambiguous_ones_are_refused() {
    let mut document = document();
    document["providers"]["second"] = document["providers"]["openai"].clone();
    document["providers"]["second"]["storage"] = json!({"backend": "files"});
    let config = read(&document).unwrap();
    for (label, id) in [
        ("files", "second"),
        ("second", "second"),
        ("openai", "openai"),
    ] {
        assert_eq!(config.provider_of_storage(label).unwrap().id, id, "{label}");
    }
    assert!(config.provider_of_storage("other").is_none());
    for (first, second) in [
        (json!({"backend": "files"}), json!({"backend": "files"})),
        (json!({}), json!({"backend": "openai"})),
        (json!({"backend": "second"}), json!({"backend": "files"})),
        (json!({"kind": "none"}), json!({"backend": "openai"})),
    ] {
        document["providers"]["openai"]["storage"] = first;
        document["providers"]["second"]["storage"] = second;
        let faults = read(&document).unwrap_err();
        assert!(faults.0[0].path.ends_with(".storage.backend"), "{faults}");
    }
    for label in ["", "a b", "a/b", &"x".repeat(33)] {
        document["providers"]["openai"]["storage"] = json!({"backend": label});
        document["providers"]["second"]["storage"] = json!({});
        assert!(read(&document).is_err(), "{label}");
    }
}

/// QUOTA-25
#[test]
fn a_listed_user_has_own_limits_and_everybody_else_the_default() {
    let config = read(&document()).unwrap();
    assert_eq!(
        config
            .limits_for(USER.parse().unwrap())
            .overshoot_tolerance_pct,
        0
    );
    assert_eq!(**config.limits_for(UserId::random()), UserLimits::default());
}

/// QUOTA-19
#[test]
fn default_model_is_the_first_enabled_default_else_the_first_enabled() {
    let mut document = document();
    let id = |document: &Value| read(document).unwrap().default_model().unwrap().id.clone();
    assert_eq!(id(&document), "small");
    document["model_catalog"][1]["preference"] = json!({"is_default": true});
    assert_eq!(id(&document), "large");
    document["model_catalog"][1]["enabled"] = json!(false);
    assert_eq!(id(&document), "small");
    assert_eq!(read(&document).unwrap().models_enabled().count(), 1);
}

/// QUOTA-15, QUOTA-26, QUOTA-27: catalog, switches, cap and limits are one policy.
#[test]
fn content_hash_ignores_version_and_time_and_nothing_else() {
    let plain = read(&document()).unwrap().content_hash;
    let mut stamped = document();
    stamped["policy_version"] = json!(7);
    stamped["generated_at"] = json!("2026-02-28T15:30:00Z");
    stamped["content_hash"] = json!(plain);
    assert_eq!(read(&stamped).unwrap().content_hash, plain);
    stamped["kill_switches"] = json!({"disable_premium_tier": true});
    let faults = read(&stamped).unwrap_err();
    assert_eq!(faults.0[0].path, "content_hash");
    stamped["content_hash"] = Value::Null;
    assert_ne!(read(&stamped).unwrap().content_hash, plain);
    for (pointer, value) in [
        ("/model_catalog/0/system_prompt", json!("Be brief.")),
        ("/model_catalog/0/enabled", json!(false)),
        (
            "/model_catalog/0/estimation_budgets",
            json!({"safety_margin_pct": 11}),
        ),
        ("/kill_switches", json!({"disable_web_search": true})),
        ("/max_output_tokens", json!(32767)),
        ("/images", json!({"max_per_message": 5})),
        (
            "/model_catalog/0/general_config",
            json!({"tool_support": {"code_interpreter": true}}),
        ),
        (
            "/user_limits/default",
            json!({"overshoot_tolerance_pct": 1}),
        ),
        ("/user_limits/by_user", json!({})),
    ] {
        let mut changed = document();
        set(&mut changed, pointer, value);
        assert_ne!(read(&changed).unwrap().content_hash, plain, "{pointer}");
    }
}

/// QUOTA-26, QUOTA-28: what an earlier release did not know is left out of the
/// document while it has its default, so that the hash of a document stays.
#[test]
fn a_default_that_is_written_out_does_not_change_the_hash() {
    let plain = read(&document()).unwrap();
    let mut written = document();
    written["images"] = json!({"max_per_message": 4});
    written["model_catalog"][0]["general_config"] =
        json!({"tool_support": {"code_interpreter": false}});
    let written = read(&written).unwrap();
    assert_eq!(written.content_hash, plain.content_hash);
    let json = written.document.to_json().unwrap();
    assert!(!json.contains("max_per_message") && !json.contains("tool_support"));
}

/// A document as the release before tools wrote it, byte for byte.
const BEFORE_TOOLS: &str = include_str!("before_tools.json");

/// QUOTA-26, QUOTA-28: a newer release reads an old document and its hash, and writes
/// the same bytes, so that a new release alone makes no new policy version.
#[test]
fn a_document_from_before_tools_keeps_its_bytes_and_its_hash() {
    let config = TenantConfig::from_json(BEFORE_TOOLS).unwrap();
    let hash = "sha256:e2a9dadb42cf6afdaff97953fc797b0ae0b855788fad1e8dcdd63be007a583ab";
    assert_eq!(config.content_hash, hash);
    assert_eq!(config.document.to_json().unwrap(), BEFORE_TOOLS);
    assert!(config.models[0].tool_support.code_interpreter);
    assert!(!config.models[0].tool_support.web_search);
    assert!(!config.context.web_search_guard.is_empty());
}

/// CONT-71: other capabilities do not make a model see.
#[test]
fn only_a_model_with_vision_input_takes_images() {
    let takes_images = |capabilities: Value| {
        let mut document = document();
        document["model_catalog"][0]["multimodal_capabilities"] = capabilities;
        read(&document).unwrap().models[0].takes_images()
    };
    assert!(takes_images(json!(["RAG", "VISION_INPUT"])));
    assert!(!takes_images(json!([])));
    assert!(!takes_images(json!(["IMAGE_GENERATION", "vision_input"])));
}

/// PLAT-100, PLAT-104
#[test]
fn a_kind_of_provider_that_nobody_knows_is_refused() {
    let mut document = document();
    for (kind, path) in [
        ("openai_responses", "/v1/responses"),
        ("vllm_responses", "/v1/responses"),
        ("openai_chat_completions", "/v1/chat/completions"),
    ] {
        document["providers"]["openai"]["kind"] = json!(kind);
        let config = read(&document).unwrap();
        assert_eq!(config.providers["openai"].api_path, path);
    }
    for kind in ["anthropic_messages", "OpenAIResponses", ""] {
        document["providers"]["openai"]["kind"] = json!(kind);
        let message = read(&document).unwrap_err().to_string();
        let unknown = format!("unknown variant `{kind}`");
        assert!(message.contains(&unknown), "{message}");
    }
}

/// QUOTA-34: settlement reads the stored document.
#[test]
fn a_stored_document_reads_back_equal() {
    let config = read(&document()).unwrap().numbered(2);
    let stored = config.document.to_json().unwrap();
    assert_eq!(TenantConfig::from_json(&stored).unwrap(), config);
}

#[test]
fn unknown_fields_are_refused_at_every_level() {
    for pointer in [
        "",
        "/providers/openai",
        "/providers/openai/auth",
        "/model_catalog/0",
        "/user_limits",
        "/user_limits/default",
    ] {
        let mut document = document();
        document.pointer_mut(pointer).unwrap()["misspelt"] = json!(1);
        let message = read(&document).unwrap_err().to_string();
        assert!(
            message.contains("unknown field `misspelt`"),
            "{pointer}: {message}"
        );
    }
}

/// QUOTA-16, QUOTA-17, QUOTA-23, QUOTA-24, D25, PLAT-104, PLAT-118, PLAT-153, PLAT-154
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn every_bound_names_the_field() {
    let cases = [
        ("/schema", json!(2), "schema"),
        ("/policy_version", json!(0), "policy_version"),
        ("/display_name", json!("x".repeat(254)), "display_name"),
        ("/max_output_tokens", json!(0), "max_output_tokens"),
        (
            "/context",
            json!({"recent_messages_limit": 101}),
            "context.recent_messages_limit",
        ),
        (
            "/images",
            json!({"max_per_message": 0}),
            "images.max_per_message",
        ),
        (
            "/images",
            json!({"max_per_message": 21}),
            "images.max_per_message",
        ),
        (
            "/uploads",
            json!({"max_image_size_kb": 0}),
            "uploads.max_image_size_kb",
        ),
        (
            "/model_catalog/0/max_file_size_mb",
            json!(0),
            "model_catalog[0].max_file_size_mb",
        ),
        ("/providers", json!({}), "providers"),
        ("/providers/openai/host", json!(""), "providers.openai.host"),
        (
            "/providers/openai/host",
            json!("a/b"),
            "providers.openai.host",
        ),
        ("/providers/openai/port", json!(0), "providers.openai.port"),
        (
            "/providers/openai/api_path",
            json!("v1"),
            "providers.openai.api_path",
        ),
        (
            "/providers/openai/auth/header",
            json!("A B"),
            "providers.openai.auth.header",
        ),
        (
            "/providers/openai/auth/prefix",
            json!("a\r\n"),
            "providers.openai.auth.prefix",
        ),
        (
            "/providers/openai/auth/secret_ref",
            json!(""),
            "providers.openai.auth.secret_ref",
        ),
        (
            "/providers/openai/timeouts",
            json!({"connect_seconds": 61}),
            "providers.openai.timeouts.connect_seconds",
        ),
        (
            "/providers/openai/timeouts",
            json!({"idle_seconds": 241}),
            "providers.openai.timeouts.idle_seconds",
        ),
        (
            "/providers/openai/timeouts",
            json!({"idle_seconds": 9, "first_byte_seconds": 10}),
            "providers.openai.timeouts.first_byte_seconds",
        ),
        (
            "/providers/openai/timeouts",
            json!({"total_seconds": 0}),
            "providers.openai.timeouts.total_seconds",
        ),
        ("/model_catalog", json!([]), "model_catalog"),
        ("/model_catalog/0/id", json!("a\nb"), "model_catalog[0].id"),
        ("/model_catalog/1/id", json!("small"), "model_catalog[1].id"),
        (
            "/model_catalog/0/provider_id",
            json!("other"),
            "model_catalog[0].provider_id",
        ),
        (
            "/model_catalog/0/provider_model_id",
            json!(""),
            "model_catalog[0].provider_model_id",
        ),
        (
            "/model_catalog/0/display_name",
            json!(""),
            "model_catalog[0].display_name",
        ),
        (
            "/model_catalog/0/context_window",
            json!(4096),
            "model_catalog[0].context_window",
        ),
        (
            "/model_catalog/0/max_input_tokens",
            json!(0),
            "model_catalog[0].max_input_tokens",
        ),
        (
            "/model_catalog/0/max_input_tokens",
            json!(10_000_001),
            "model_catalog[0].max_input_tokens",
        ),
        (
            "/model_catalog/0/max_tool_calls",
            json!(0),
            "model_catalog[0].max_tool_calls",
        ),
        (
            "/model_catalog/0/input_tokens_credit_multiplier_micro",
            json!(10_000_000_001_u64),
            "model_catalog[0].input_tokens_credit_multiplier_micro",
        ),
        (
            "/model_catalog/0/estimation_budgets",
            json!({"bytes_per_token_conservative": 0}),
            "model_catalog[0].estimation_budgets.bytes_per_token_conservative",
        ),
        (
            "/model_catalog/0/estimation_budgets",
            json!({"safety_margin_pct": 1001}),
            "model_catalog[0].estimation_budgets.safety_margin_pct",
        ),
        (
            "/model_catalog/0/estimation_budgets",
            json!({"image_token_budget": 0}),
            "model_catalog[0].estimation_budgets.image_token_budget",
        ),
        (
            "/model_catalog/0/estimation_budgets",
            json!({"minimal_generation_floor": 4097}),
            "model_catalog[0].estimation_budgets.minimal_generation_floor",
        ),
        (
            "/model_catalog/0/general_config",
            json!({"api_params": {"temperature": 2.1}}),
            "model_catalog[0].general_config.api_params.temperature",
        ),
        (
            "/model_catalog/0/general_config",
            json!({"api_params": {"extra_body": 1}}),
            "model_catalog[0].general_config.api_params.extra_body",
        ),
        (
            "/model_catalog/0/general_config",
            json!({"api_params": {"stop": ["a", "b", "c", "d", "e"]}}),
            "model_catalog[0].general_config.api_params.stop",
        ),
        (
            "/user_limits/default",
            json!({"standard": {"limit_daily_credits_micro": -1, "limit_monthly_credits_micro": 0}}),
            "user_limits.default.standard.limit_daily_credits_micro",
        ),
        (
            "/user_limits/default",
            json!({"overshoot_tolerance_pct": 51}),
            "user_limits.default.overshoot_tolerance_pct",
        ),
        (
            "/user_limits/default",
            json!({"warning_threshold_pct": 100}),
            "user_limits.default.warning_threshold_pct",
        ),
    ];
    for (pointer, value, path) in cases {
        let mut document = document();
        set(&mut document, pointer, value.clone());
        let faults = read(&document).unwrap_err();
        assert!(
            faults.0.iter().any(|f| f.path == path),
            "{pointer} = {value}: {faults}"
        );
    }
}

/// D25: zeros that are allowed.
#[test]
fn a_free_model_and_a_limit_of_zero_are_accepted() {
    let mut document = document();
    set(
        &mut document,
        "/model_catalog/0/input_tokens_credit_multiplier_micro",
        json!(0),
    );
    set(
        &mut document,
        "/user_limits/default",
        json!({"premium": {"limit_daily_credits_micro": 0, "limit_monthly_credits_micro": 0}}),
    );
    read(&document).unwrap();
}

/// QUOTA-17, PLAT-153
#[test]
fn a_catalog_without_an_enabled_model_is_refused() {
    let mut document = document();
    for i in 0..2 {
        document["model_catalog"][i]["enabled"] = json!(false);
    }
    let message = read(&document).unwrap_err().to_string();
    assert!(message.contains("at least one enabled entry"), "{message}");
}

/// QUOTA-17, PLAT-153
#[test]
fn two_defaults_of_one_tier_are_refused() {
    let mut document = document();
    for i in 0..2 {
        document["model_catalog"][i]["preference"] = json!({"is_default": true});
    }
    read(&document).unwrap();
    document["model_catalog"][1]["tier"] = json!("standard");
    assert!(
        read(&document)
            .unwrap_err()
            .to_string()
            .contains("one default per tier")
    );
}

fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        other => other[key] = value,
    }
}

/// QUOTA-26
#[test]
fn a_document_that_is_too_large_says_what_to_shorten() {
    let mut document = document();
    document["model_catalog"][1]["system_prompt"] = json!("x".repeat(65_000));
    let limits = document["user_limits"]["default"].clone();
    for i in 0..8000_u32 {
        let user = format!("1c7e0000-0000-4000-8000-{i:012}");
        document["user_limits"]["by_user"][user] = limits.clone();
    }
    let faults = read(&document).unwrap_err();
    let message = &faults.0[0].message;
    for part in [
        "of which model large takes 65",
        "limits of 800",
        "shorten systemPrompt",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
