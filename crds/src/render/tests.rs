//! Rendering of whole tenants.

use std::collections::BTreeSet;

use minichat_config::tenant::{
    ProviderKind, Scheme, Sink, Storage, StorageApi, Tier, UploadLimits,
};
use minichat_core::UserId;
use serde_json::{Value, json};

use super::*;
use crate::cases::{quota, tenant, with};
use crate::validation;

const ALLOW_HTTP: RenderSettings = RenderSettings {
    allow_http: true,
    allow_private: None,
    orphan_timeout: Duration::from_mins(5),
    issuer: None,
};

fn secrets() -> Secrets {
    let value = SecretValue::from(b"sk-visible".as_slice());
    let keys = [("key".to_owned(), value)];
    Secrets::from([("main".to_owned(), keys.into())])
}

fn rendered(tenant: &Value, quotas: &[Value]) -> Result<Rendered, Faults> {
    let tenant = validation::chat_tenant(tenant, None)?;
    let quotas: Vec<_> = quotas
        .iter()
        .map(|q| validation::chat_quota(q, None).unwrap())
        .collect();
    render(
        &tenant,
        &quotas.iter().collect::<Vec<_>>(),
        &secrets(),
        &ALLOW_HTTP,
    )
}

fn named(name: &str, spec: &Value) -> Value {
    let mut object = quota();
    object["metadata"]["name"] = json!(name);
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line per field")]
fn every_field_reaches_the_configuration() {
    let spec = json!({
        "tenantId": "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01",
        "displayName": "Acme", "suspended": true, "features": {"aiChat": false},
        "providers": [{
            "name": "p", "kind": "VllmResponses", "baseUrl": "http://[::1]:8000/", "apiPath": "/x/{model}",
            "auth": {"header": "api-key", "prefix": "", "secretKeyRef": {"name": "main", "key": "key"}},
            "timeouts": {"connectSeconds": 1, "firstByteSeconds": 2, "idleSeconds": 3, "totalSeconds": 4},
            "sendPenalties": false, "sendMetadata": false,
            "storage": {"kind": "Azure", "apiVersion": "2025-04-01-preview", "backend": "files", "supportsFileSearchFilters": true}
        }],
        "models": [{
            "id": "m", "providerModelId": "pm", "displayName": "M", "description": "d", "providerRef": "p",
            "tier": "Premium", "multimodalCapabilities": ["VISION_INPUT"],
            "contextWindow": 1000, "maxOutputTokens": 100, "maxInputTokens": 500,
            "inputTokensCreditMultiplierMicro": 0, "outputTokensCreditMultiplierMicro": 7,
            "multiplierDisplay": "2x", "systemPrompt": "be kind", "maxFileSizeMb": 7,
            "estimationBudgets": {"bytesPerTokenConservative": 3, "fixedOverheadTokens": 2, "safetyMarginPct": 1, "imageTokenBudget": 8, "minimalGenerationFloor": 9},
            "toolSupport": {"codeInterpreter": true},
            "apiParams": {"temperature": 0.5, "topP": 0.25, "frequencyPenalty": 1, "presencePenalty": -1,
                "stop": ["END"], "reasoningEffort": "low", "extraBody": {"k": 1}},
            "preference": {"isDefault": true, "sortOrder": 4}
        }],
        "killSwitches": {"disablePremiumTier": true, "forceStandardTier": true, "disableWebSearch": true,
            "disableImages": true, "disableCodeInterpreter": true},
        "streaming": {"maxOutputTokens": 50}, "context": {"recentMessagesLimit": 3}, "images": {"maxPerMessage": 7},
        "threadSummary": {"enabled": false, "compressionThresholdPct": 70, "systemPrompt": "short", "modelId": "m"},
        "uploads": {"maxFileSizeKb": 1, "maxImageSizeKb": 2, "maxDocumentsPerChat": 3, "maxTotalUploadMbPerChat": 4,
            "maxConcurrentUploads": 5, "maxConcurrentUploadsPerUser": 6},
        "usageSink": {"type": "Log"}, "auditSink": {"type": "Log", "includeContent": true}
    });
    let Rendered {
        config,
        credentials,
        ..
    } = rendered(&with(tenant(), "/spec", spec), &[]).unwrap();
    assert_eq!(
        config.tenant_id.to_string(),
        "5f0c2f4e-8f0d-4c6b-9a43-0d7b8f6f1a01"
    );
    assert_eq!(
        (
            config.display_name.as_str(),
            config.suspended,
            config.features.ai_chat
        ),
        ("Acme", true, false)
    );
    assert_eq!(
        (
            config.max_output_tokens,
            config.context.recent_messages_limit,
            config.images.max_per_message
        ),
        (50, 3, 7)
    );
    assert!(config.kill_switches.disable_premium_tier && config.kill_switches.force_standard_tier);
    assert!(config.kill_switches.disable_web_search && config.kill_switches.disable_images);
    assert!(config.kill_switches.disable_code_interpreter);
    assert!(config.kill_switches.disable_web_search);
    let summary = &config.document.thread_summary;
    assert_eq!(
        (summary.enabled, summary.compression_threshold_pct),
        (false, Some(70))
    );
    let uploads = UploadLimits {
        max_file_size_kb: Some(1),
        max_image_size_kb: Some(2),
        max_documents_per_chat: Some(3),
        max_total_upload_mb_per_chat: Some(4),
        max_concurrent_uploads: Some(5),
        max_concurrent_uploads_per_user: Some(6),
    };
    assert_eq!(config.uploads, uploads);
    assert_eq!(config.models[0].max_file_size_mb, Some(7));
    let provider = &config.providers["p"];
    assert_eq!(
        (provider.scheme, provider.authority().as_str()),
        (Scheme::Http, "[::1]:8000")
    );
    assert_eq!(
        (provider.kind, provider.api_path.as_str()),
        (ProviderKind::VllmResponses, "/x/{model}")
    );
    assert!(!provider.send_penalties && !provider.send_metadata);
    let storage = Storage {
        api: StorageApi::Azure {
            api_version: "2025-04-01-preview".to_owned(),
        },
        backend: "files".to_owned(),
        supports_file_search_filters: true,
    };
    assert_eq!(provider.storage.as_ref(), Some(&storage));
    let timeouts = provider.timeouts;
    let seconds = [
        timeouts.connect,
        timeouts.first_byte,
        timeouts.idle,
        timeouts.total,
    ]
    .map(|t| t.as_secs());
    assert_eq!(seconds, [1, 2, 3, 4]);
    let auth = provider.auth.as_ref().unwrap();
    assert_eq!(
        (auth.header.as_str(), auth.prefix.as_str()),
        ("api-key", "")
    );
    assert_eq!(
        credentials.get(&auth.secret_ref).unwrap().expose(),
        "sk-visible"
    );
    let model = config.model("m").unwrap();
    assert_eq!(
        (model.tier, model.provider_model_id.as_str()),
        (Tier::Premium, "pm")
    );
    assert_eq!(
        (
            model.context_window,
            model.max_output_tokens,
            model.max_input_tokens
        ),
        (1000, 100, 500)
    );
    assert_eq!(
        (
            model.pricing.input_multiplier_micro,
            model.pricing.output_multiplier_micro
        ),
        (0, 7)
    );
    assert_eq!(
        (
            model.description.as_str(),
            model.multiplier_display.as_str(),
            model.system_prompt.as_str()
        ),
        ("d", "2x", "be kind")
    );
    assert_eq!(model.multimodal_capabilities, ["VISION_INPUT"]);
    let budgets = model.estimation_budgets;
    assert_eq!(
        (
            budgets.bytes_per_token_conservative,
            budgets.fixed_overhead_tokens
        ),
        (3, 2)
    );
    assert_eq!(
        (
            budgets.safety_margin_pct,
            budgets.image_token_budget,
            budgets.minimal_generation_floor
        ),
        (1, 8, 9)
    );
    assert!(model.takes_images() && model.tool_support.code_interpreter);
    let params = &model.api_params;
    assert_eq!((params.temperature, params.top_p), (Some(0.5), Some(0.25)));
    assert_eq!(
        (params.frequency_penalty, params.presence_penalty),
        (1.0, -1.0)
    );
    assert_eq!(
        (params.stop.clone(), params.reasoning_effort.as_deref()),
        (vec!["END".to_owned()], Some("low"))
    );
    assert_eq!(params.extra_body, Some(json!({"k": 1})));
    let preference = model.preference.unwrap();
    assert_eq!((preference.is_default, preference.sort_order), (true, 4));
    let sinks = config.sinks(&credentials).unwrap();
    assert_eq!((&sinks.usage, &sinks.audit), (&Sink::Log, &Sink::Log));
    assert!(sinks.include_content);
}

/// K8S-20: the document holds no secret.
#[test]
fn no_secret_is_in_the_document() {
    let auth = json!({"secretKeyRef": {"name": "main", "key": "key"}});
    let rendered = rendered(&with(tenant(), "/spec/providers/0/auth", auth), &[]).unwrap();
    assert!(
        !rendered
            .config
            .document
            .to_json()
            .unwrap()
            .contains("sk-visible")
    );
    assert!(!format!("{rendered:?}").contains("sk-visible"));
    assert_eq!(rendered.config.policy_version, None);
}

#[test]
fn a_missing_secret_or_key_says_what_to_write() {
    for (reference, path, what) in [
        (
            json!({"name": "other", "key": "key"}),
            "spec.providers[0].auth.secretKeyRef.name",
            "no Secret other",
        ),
        (
            json!({"name": "main", "key": "k"}),
            "spec.providers[0].auth.secretKeyRef.key",
            "the Secret main has no key k; add it",
        ),
    ] {
        let tenant = with(
            tenant(),
            "/spec/providers/0/auth",
            json!({"secretKeyRef": reference}),
        );
        let faults = rendered(&tenant, &[]).unwrap_err();
        assert_eq!(faults.0[0].path, path);
        assert!(faults.0[0].message.contains(what), "{faults}");
        assert!(!faults.to_string().contains("key key"), "{faults}");
    }
}

/// PLAT-152: `provider_http.allow_http`.
#[test]
fn plain_http_needs_permission() {
    let tenant = with(
        tenant(),
        "/spec/providers/0/baseUrl",
        json!("http://127.0.0.1"),
    );
    assert_eq!(
        rendered(&tenant, &[]).unwrap().config.providers["main"].port,
        80
    );
    let tenant = validation::chat_tenant(&tenant, None).unwrap();
    let faults = render(&tenant, &[], &secrets(), &RenderSettings::default()).unwrap_err();
    assert_eq!(faults.0[0].path, "spec.providers[0].baseUrl");
    for field in ["spec.usageSink.webhook.url", "spec.auditSink.webhook.url"] {
        let tenant = calling(field, "http://receiver.example/hook");
        render(&tenant, &[], &secrets(), &ALLOW_HTTP).unwrap();
        let faults = render(&tenant, &[], &secrets(), &RenderSettings::default()).unwrap_err();
        assert_eq!(faults.0[0].path, field);
        assert!(faults.0[0].message.contains("plain http"), "{faults}");
    }
}

/// TURN-1: a live process gives a silent provider up before its turn is taken
/// for left behind.
#[test]
fn a_provider_may_not_be_silent_for_as_long_as_the_watchdog_waits() {
    let settings = |seconds| RenderSettings {
        orphan_timeout: Duration::from_secs(seconds),
        ..ALLOW_HTTP
    };
    let idle = |seconds: u32| {
        let timeouts = json!({"firstByteSeconds": 1, "idleSeconds": seconds});
        let tenant = with(tenant(), "/spec/providers/0/timeouts", timeouts);
        validation::chat_tenant(&tenant, None).unwrap()
    };
    let check = |seconds, timeout| render(&idle(seconds), &[], &secrets(), &settings(timeout));
    assert!(check(30, 90).is_ok() && check(240, 300).is_ok());
    let faults = check(31, 90).unwrap_err();
    assert_eq!(faults.0[0].path, "spec.providers[0].timeouts.idleSeconds");
    let message = &faults.0[0].message;
    assert!(
        message.starts_with(
            "must be at most 30, 60 seconds below orphan_watchdog.timeout_secs, which is 90:"
        ),
        "{message}"
    );
}

/// D19
#[test]
fn base_url_is_split_into_scheme_host_and_port() {
    for (url, parts) in [
        (
            "https://api.openai.com",
            Some((false, "api.openai.com", 443)),
        ),
        ("http://a:1/", Some((true, "a", 1))),
        ("https://[2001:db8::1]", Some((false, "[2001:db8::1]", 443))),
        ("http://[::1]:18080", Some((true, "[::1]", 18080))),
        ("http://a:0", None),
        ("http://a:65536", None),
        ("ftp://a", None),
        ("https://", None),
    ] {
        let found = document::base_url_parts(url);
        assert_eq!(
            found,
            parts.map(|(http, host, port)| (http, host.to_owned(), port)),
            "{url}"
        );
    }
}

/// QUOTA-25
#[test]
fn exactly_one_quota_applies_to_a_user() {
    const ANNA: &str = "1c7e0000-0000-4000-8000-000000000001";
    let daily = |credits: u32| json!({"standard": {"daily": credits}});
    let subjects = json!([{"kind": "User", "name": ANNA}]);
    let quotas = [
        named("b-default", &json!({"limits": daily(3)})),
        named("a-default", &json!({"limits": daily(2)})),
        named("b-user", &json!({"limits": daily(5), "subjects": subjects})),
        named("a-user", &json!({"limits": daily(4), "subjects": subjects})),
    ];
    let limit = |quotas: &[Value], user: UserId| {
        rendered(&tenant(), quotas)
            .unwrap()
            .config
            .limits_for(user)
            .standard
            .daily
            / 1_000_000
    };
    let anna: UserId = ANNA.parse().unwrap();
    assert_eq!(limit(&quotas, anna), 4);
    assert_eq!(limit(&quotas, UserId::random()), 2);
    assert_eq!(limit(&[], anna), 100);
    let mut preferred = quotas.clone();
    preferred[0]["spec"]["priority"] = json!(1);
    preferred[2]["spec"]["priority"] = json!(1);
    assert_eq!(limit(&preferred, anna), 5);
    assert_eq!(limit(&preferred, UserId::random()), 3);
    let warnings = rendered(&tenant(), &quotas).unwrap().warnings;
    for (loser, winner) in [("b-default", "a-default"), ("b-user", "a-user")] {
        let told = warnings.iter();
        let told: Vec<_> = told
            .filter(|w| w.starts_with(&format!("ChatQuota {loser} applies to nobody: ")))
            .collect();
        assert_eq!(told.len(), 1, "{warnings:?}");
        assert!(
            told[0].contains(&format!("ChatQuota {winner} (priority 0)")),
            "{told:?}"
        );
    }
}

fn short(tenant: &Value, quotas: &[Value], settings: &RenderSettings) -> Vec<(String, Shortfall)> {
    let tenant = validation::chat_tenant(tenant, None).unwrap();
    let quotas: Vec<_> = quotas
        .iter()
        .map(|quota| validation::chat_quota(quota, None).unwrap())
        .collect();
    let quotas: Vec<_> = quotas.iter().collect();
    let allowances = allowances(&tenant, &quotas, settings);
    allowances.shortfalls.into_iter().collect()
}

fn users(names: &[&str]) -> Value {
    let subjects: Vec<_> = names
        .iter()
        .map(|name| json!({"kind": "User", "name": name}))
        .collect();
    json!(subjects)
}

/// D45, QUOTA-25
#[test]
fn a_quota_that_applies_only_to_some_of_its_subjects_names_the_one_that_wins() {
    const ANNA: &str = "1c7e0000-0000-4000-8000-000000000001";
    const BEN: &str = "1c7e0000-0000-4000-8000-000000000002";
    const CARL: &str = "1c7e0000-0000-4000-8000-000000000003";
    let of = |name: &str, priority: i32, names: &[&str]| {
        named(
            name,
            &json!({"priority": priority, "subjects": users(names)}),
        )
    };
    let gold = of("gold", 7, &[ANNA, BEN]);
    let settings = RenderSettings::STRICT;
    let quotas = [gold.clone(), of("silver", 0, &[CARL, BEN])];
    let found = short(&tenant(), &quotas, &settings);
    let [(name, Shortfall { kind, message })] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (name.as_str(), *kind),
        ("silver", ShortfallKind::PartlyApplied)
    );
    assert_eq!(
        message,
        "does not apply to all of its subjects: ChatQuota gold (priority 7) applies to spec.subjects[1]; raise spec.priority above that, or name each user in one quota"
    );
    let quotas = [gold.clone(), of("silver", 0, &[BEN, ANNA])];
    let found = short(&tenant(), &quotas, &settings);
    assert_eq!(found[0].1.kind, ShortfallKind::Conflict, "{found:?}");
    // Others of the tenant's are no rivals: a default quota, and one for other users.
    let quotas = [gold, of("silver", 0, &[CARL]), quota()];
    assert_eq!(short(&tenant(), &quotas, &settings), []);
    // The same user in two spellings, twice in one quota.
    let twice = of("twice", 0, &[ANNA, &ANNA.to_uppercase()]);
    assert_eq!(short(&tenant(), &[twice], &settings), []);
}

/// D45, PLAT-132
#[test]
fn subjects_are_named_as_in_the_token_of_the_tenants_issuers_or_else_of_the_process() {
    const LOGIN: &str = "https://login.example.com";
    const OTHER: &str = "https://other.example.com";
    let quota = |name: &str, names: &[&str]| {
        named(
            name,
            &json!({"subjects": users(names), "limits": {"standard": {"daily": 1}}}),
        )
    };
    let issuers = |issuers: &[&str]| {
        let issuers = issuers.iter();
        let entries: Vec<_> = issuers
            .map(|issuer| json!({"issuer": issuer, "audience": "a"}))
            .collect();
        with(tenant(), "/spec/auth", json!({"issuers": entries}))
    };
    let of_process = RenderSettings {
        issuer: Some(LOGIN.into()),
        ..RenderSettings::LENIENT
    };
    let named_users = |tenant: &Value, settings: &RenderSettings| -> Vec<UserId> {
        let tenant = validation::chat_tenant(tenant, None).unwrap();
        let quota = validation::chat_quota(&quota("q", &["auth0|anna"]), None).unwrap();
        let limits = allowances(&tenant, &[&quota], settings).limits;
        limits.by_user.into_keys().collect()
    };
    let anna = |issuer: &str| UserId::of_subject(issuer, "auth0|anna");
    assert_eq!(
        named_users(&issuers(&[LOGIN]), &RenderSettings::STRICT),
        [anna(LOGIN)]
    );
    assert_eq!(named_users(&tenant(), &of_process), [anna(LOGIN)]);
    assert_eq!(named_users(&issuers(&[OTHER]), &of_process), [anna(OTHER)]);
    let both: BTreeSet<_> = named_users(&issuers(&[LOGIN, OTHER]), &of_process)
        .into_iter()
        .collect();
    assert_eq!(both, [anna(LOGIN), anna(OTHER)].into());

    // A rival names the same user by the UUID that the subject becomes.
    let quotas = [
        quota("a", &[&anna(LOGIN).to_string()]),
        quota("b", &["auth0|anna"]),
    ];
    let found = short(&tenant(), &quotas, &of_process);
    assert_eq!(
        (found[0].0.as_str(), found[0].1.kind),
        ("b", ShortfallKind::Conflict)
    );

    // Nobody has such a name where nobody issues tokens.
    let uuid = UserId::random().to_string();
    for (names, kind) in [
        (vec!["auth0|anna"], ShortfallKind::NoIssuer),
        (
            vec!["auth0|anna", uuid.as_str()],
            ShortfallKind::PartlyApplied,
        ),
    ] {
        let found = short(&tenant(), &[quota("q", &names)], &RenderSettings::STRICT);
        assert_eq!(found[0].1.kind, kind, "{found:?}");
        assert!(
            found[0]
                .1
                .message
                .contains("spec.subjects[0] cannot be the name of a user: it is no UUID"),
            "{found:?}"
        );
        assert!(!found[0].1.message.contains("anna"), "{found:?}");
    }
}

/// A condition's message has at most 32768 characters, and people read it.
#[test]
fn hundreds_of_quotas_that_lose_make_a_message_that_can_be_read() {
    let ids: Vec<_> = (0..256).map(|_| UserId::random().to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let winners = (0..256).map(|i| {
        named(
            &format!("a{i:03}"),
            &json!({"subjects": users(&ids[i..=i])}),
        )
    });
    let mut quotas: Vec<_> = winners.collect();
    quotas.push(named("b", &json!({"subjects": users(&ids)})));
    let found = short(&tenant(), &quotas, &RenderSettings::STRICT);
    assert!(found[0].1.message.len() < 1000, "{}", found[0].1.message);
    let losers = (0..256).map(|i| named(&format!("c{i:03}"), &json!({})));
    let warnings = rendered(&tenant(), &losers.collect::<Vec<_>>())
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 11, "{warnings:?}");
    assert_eq!(
        warnings[10],
        "245 more quotas do not apply to everybody whom they mean"
    );
}

/// QUOTA-17
#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let warns = |tenant: &Value, quotas: &[Value], what: &str| {
        let warnings = rendered(tenant, quotas).unwrap().warnings;
        warnings.iter().any(|warning| warning.contains(what))
    };
    let above = named(
        "q",
        &json!({"limits": {"standard": {"daily": 1}, "premium": {"daily": 2}}}),
    );
    assert!(warns(
        &tenant(),
        &[above],
        "limits.premium.daily (2) is above"
    ));
    let only_premium = with(tenant(), "/spec/models/0/enabled", json!(false));
    assert!(warns(&only_premium, &[], "no enabled model is Standard"));
    let tiny = named("q", &json!({"limits": {"standard": {"daily": "1u"}}}));
    assert!(warns(&tenant(), &[tiny], "the default limits are smaller"));
    assert!(rendered(&tenant(), &[quota()]).unwrap().warnings.is_empty());
}

/// PLAT-102: what is shorter is a word of any answer, so it cannot be masked there.
#[test]
fn a_credential_that_answers_may_repeat_is_a_warning() {
    for (value, is_told) in [("none", true), ("1234567", true), ("12345678", false)] {
        let keys = [("key".to_owned(), SecretValue::from(value.as_bytes()))];
        let secrets = Secrets::from([("main".to_owned(), keys.into())]);
        let auth = json!({"secretKeyRef": {"name": "main", "key": "key"}});
        let tenant = with(tenant(), "/spec/providers/0/auth", auth);
        let tenant = validation::chat_tenant(&tenant, None).unwrap();
        let rendered = render(&tenant, &[], &secrets, &ALLOW_HTTP).unwrap();
        let told = rendered.warnings.iter();
        let told: Vec<_> = told
            .filter(|warning| warning.contains("is not masked"))
            .collect();
        assert_eq!(told.len(), usize::from(is_told), "{told:?}");
        let names_it = |it: &&String| it.contains("provider main") && !it.contains(value);
        assert!(told.iter().all(names_it), "{told:?}");
    }
}

/// K8S, section 2: `tenantId`.
#[test]
fn an_id_is_derived_from_namespace_and_name_and_never_changes() {
    let id = |namespace: &str| {
        let tenant = with(tenant(), "/metadata/namespace", json!(namespace));
        rendered(&tenant, &[]).unwrap().config.tenant_id.to_string()
    };
    assert_eq!(id("default"), id("default"));
    assert_ne!(id("default"), id("other"));
    assert_eq!(id("default"), "1024b263-4d80-5e6d-9656-d2222cf4e009");
}

/// D36: an API server may have had the tenant before its definition refused the id.
#[test]
fn an_id_that_is_derived_from_a_name_is_used_by_that_name_alone() {
    let faults = |namespace: &str, id: &str| {
        let object = with(tenant(), "/metadata/namespace", json!(namespace));
        let mut tenant = validation::chat_tenant(&object, None).unwrap();
        tenant.spec.tenant_id = Some(id.to_owned());
        let rendered = render(&tenant, &[], &secrets(), &ALLOW_HTTP);
        rendered.map_or_else(|faults| faults.0, |_| Vec::new())
    };
    let own = "1024b263-4d80-5e6d-9656-d2222cf4e009";
    assert_eq!(faults("default", own), []);
    for id in [
        own,
        Uuid::nil().to_string().as_str(),
        &Uuid::max().to_string(),
        "acme",
    ] {
        let found = faults("other", id);
        assert_eq!(found.len(), 1, "{id}");
        assert_eq!(found[0].path, "spec.tenantId");
    }
}

#[test]
fn faults_of_the_document_name_fields_of_the_manifest() {
    for (path, named) in [
        ("", "spec"),
        ("model_catalog[0].provider_id", "spec.models[0].providerRef"),
        (
            "model_catalog[1].api_params.top_p",
            "spec.models[1].apiParams.topP",
        ),
        ("issuers[2].jwks_uri", "spec.auth.issuers[2].jwksUri"),
        (
            "audit_sink.webhook.signing_secret_ref",
            "spec.auditSink.webhook.signingSecretRef",
        ),
    ] {
        let fault = minichat_config::Fault {
            path: path.to_owned(),
            message: String::new(),
        };
        let faults = document::in_words_of_the_manifest(Faults(vec![fault]));
        assert_eq!(faults.0[0].path, named);
    }
}

/// A tenant whose provider or webhook is at `url`, or whose issuer is asked there.
fn calling(field: &str, url: &str) -> ChatTenant {
    let issuer = |issuer: &str, jwks_uri: Option<&str>| json!({"issuers": [{"issuer": issuer, "audience": "a", "jwksUri": jwks_uri}]});
    let webhook = |url: &str| json!({"type": "Webhook", "webhook": {"url": url}});
    let public = "https://login.example.com";
    let object = match field {
        "spec.providers[0].baseUrl" => with(tenant(), "/spec/providers/0/baseUrl", json!(url)),
        "spec.auth.issuers[0].issuer" => with(tenant(), "/spec/auth", issuer(url, None)),
        "spec.usageSink.webhook.url" => with(tenant(), "/spec/usageSink", webhook(url)),
        "spec.auditSink.webhook.url" => with(tenant(), "/spec/auditSink", webhook(url)),
        _ => with(tenant(), "/spec/auth", issuer(public, Some(url))),
    };
    validation::chat_tenant(&object, None).unwrap_or_else(|faults| panic!("{url}: {faults}"))
}

/// D48: what cannot be reached is refused where it is written, in each field
/// that is called.
#[test]
fn a_private_address_needs_permission_in_every_field_that_is_called() {
    let settings = |list: &str| RenderSettings {
        allow_http: true,
        allow_private: Some(list.parse().unwrap()),
        ..RenderSettings::STRICT
    };
    for field in [
        "spec.providers[0].baseUrl",
        "spec.auth.issuers[0].issuer",
        "spec.auth.issuers[0].jwksUri",
        "spec.usageSink.webhook.url",
        "spec.auditSink.webhook.url",
    ] {
        for (url, list) in [
            ("http://10.0.0.5:8000", "10.0.0.0/8"),
            ("http://2130706433", "127.0.0.0/8"),
            ("http://0x7f.1", "127.0.0.0/8"),
            ("https://[::ffff:10.0.0.5]:8000", "10.0.0.0/8"),
            ("http://localhost:11434", "127.0.0.0/8"),
            ("http://vllm.models.svc:8000", ".models.svc.cluster.local"),
            ("http://vllm:8000", "10.0.0.0/8"),
        ] {
            let tenant = calling(field, url);
            let check = |list| render(&tenant, &[], &secrets(), &settings(list));
            let faults = check("").unwrap_err();
            assert_eq!(faults.0.len(), 1, "{faults}");
            assert_eq!(faults.0[0].path, field, "{url}");
            assert!(
                faults.0[0].message.contains("outbound.allowPrivate"),
                "{faults}"
            );
            let document = render(&tenant, &[], &secrets(), &RenderSettings::LENIENT);
            assert!(document.is_ok());
            check(list).unwrap_or_else(|faults| panic!("{url}: {faults}"));
        }
        for never in [
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://0.0.0.0",
        ] {
            let tenant = calling(field, never);
            let faults = render(&tenant, &[], &secrets(), &settings("0.0.0.0/0,::/0"));
            assert_eq!(faults.unwrap_err().0[0].path, field, "{never}");
        }
    }
    // An issuer whose keys are elsewhere is only a name.
    let named = json!({"issuers": [{
        "issuer": "https://login.internal", "audience": "a", "jwksUri": "https://keys.example.com",
    }]});
    let tenant = validation::chat_tenant(&with(tenant(), "/spec/auth", named), None).unwrap();
    render(&tenant, &[], &secrets(), &settings("")).unwrap();
}
