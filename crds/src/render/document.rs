//! Turns a custom resource into the rendered document, field by field.

use std::time::Duration;

use minichat_config::issuer::url_host;
use minichat_config::tenant::document::{
    ApiParamsDocument, AuthDocument, ContextDocument, FeaturesDocument, GeneralConfigDocument,
    ImagesDocument, IssuerDocument, MAX_NUM_RESULTS, ModelDocument, PreferenceDocument,
    ProviderDocument, SCHEMA, StorageDocument, TenantDocument, ThreadSummaryDocument,
    TimeoutsDocument, ToolSupportDocument, UserLimitsDocument,
};
use minichat_config::tenant::{SearchContextSize, StorageKind, UploadLimits};
use minichat_config::{Fault, Faults, ProviderKind};
use minichat_core::TenantId;
use minichat_core::quota::{EstimationBudgets, KillSwitches, Tier};
use serde_json::Value;

use super::{RenderSettings, sink};
use crate::ChatTenant;
use crate::chat_tenant::{self as crd, ChatTenantSpec};

/// What is wrong with an address of a process that wants TLS.
pub(super) const PLAIN_HTTP: &str =
    "plain http is not allowed by this process; write https://, or set provider_http.allow_http";

pub(super) fn document(
    tenant: &ChatTenant,
    tenant_id: TenantId,
    user_limits: UserLimitsDocument,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> TenantDocument {
    // Without `..`, so that a new field cannot be forgotten here.
    let ChatTenantSpec {
        // The pool is a label of the rendered Secret.
        pool: _,
        tenant_id: _,
        display_name,
        suspended,
        features: crd::Features { ai_chat },
        auth: crd::TenantAuth { issuers },
        providers,
        models,
        kill_switches,
        streaming: crd::Streaming { max_output_tokens },
        context,
        images: crd::Images { max_per_message },
        uploads: own_limits,
        thread_summary,
        usage_sink,
        audit_sink,
    } = &tenant.spec;
    let crd::KillSwitches {
        disable_premium_tier,
        force_standard_tier,
        disable_web_search,
        disable_file_search,
        disable_images,
        disable_code_interpreter,
    } = kill_switches;
    let providers = providers
        .iter()
        .enumerate()
        .map(|(i, p)| {
            (
                p.name.clone(),
                provider(p, &format!("spec.providers[{i}]"), settings, faults),
            )
        })
        .collect();
    let issuers = issuers
        .iter()
        .enumerate()
        .map(|(i, entry)| issuer(entry, &format!("spec.auth.issuers[{i}]"), settings, faults))
        .collect();
    TenantDocument {
        schema: SCHEMA,
        tenant_id,
        policy_version: None,
        generated_at: None,
        source: None,
        content_hash: None,
        display_name: display_name.clone(),
        suspended: *suspended,
        features: FeaturesDocument { ai_chat: *ai_chat },
        issuers,
        max_output_tokens: *max_output_tokens,
        providers,
        model_catalog: models.iter().map(model).collect(),
        kill_switches: KillSwitches {
            disable_premium_tier: *disable_premium_tier,
            force_standard_tier: *force_standard_tier,
            disable_web_search: *disable_web_search,
            disable_file_search: *disable_file_search,
            disable_images: *disable_images,
            disable_code_interpreter: *disable_code_interpreter,
        },
        context: self::context(context),
        images: ImagesDocument {
            max_per_message: *max_per_message,
        },
        uploads: uploads(own_limits),
        thread_summary: self::thread_summary(thread_summary),
        usage_sink: sink::usage(usage_sink, settings, faults),
        audit_sink: sink::audit(audit_sink, settings, faults),
        user_limits,
    }
}

fn issuer(
    entry: &crd::Issuer,
    path: &str,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> IssuerDocument {
    let crd::Issuer {
        issuer,
        audience,
        jwks_uri,
        tenant_claim,
        user_claim,
        scopes_claim,
    } = entry;
    let plain = |url: &str| url.starts_with("http://") && !settings.allow_http;
    for (key, url) in [("issuer", Some(issuer)), ("jwksUri", jwks_uri.as_ref())] {
        faults.require(
            !url.is_some_and(|url| plain(url)),
            format!("{path}.{key}"),
            PLAIN_HTTP,
        );
    }
    let (key, asked) = match jwks_uri {
        Some(jwks_uri) => ("jwksUri", jwks_uri),
        None => ("issuer", issuer),
    };
    if let Some(host) = url_host(asked)
        && let Some(message) = settings.refuse_host(host)
    {
        faults.add(format!("{path}.{key}"), message);
    }
    IssuerDocument {
        issuer: issuer.clone(),
        audience: audience.clone(),
        jwks_uri: jwks_uri.clone(),
        tenant_claim: tenant_claim.clone(),
        user_claim: user_claim.clone(),
        scopes_claim: scopes_claim.clone(),
    }
}

/// The name under which a credential is handed over.
pub(super) fn secret_ref(reference: &crd::SecretKeyRef) -> String {
    format!("{}/{}", reference.name, reference.key)
}

fn provider(
    provider: &crd::Provider,
    path: &str,
    settings: &RenderSettings,
    faults: &mut Faults,
) -> ProviderDocument {
    let crd::Provider {
        name: _,
        kind,
        base_url,
        api_path,
        auth,
        timeouts,
        send_penalties,
        send_metadata,
        storage: files,
    } = provider;
    let url = base_url_parts(base_url);
    if url.is_none() {
        faults.add(
            format!("{path}.baseUrl"),
            "must have a host and a port from 1 to 65535",
        );
    }
    let (use_http, host, port) = url.unwrap_or((false, String::new(), 443));
    faults.require(
        !use_http || settings.allow_http,
        format!("{path}.baseUrl"),
        PLAIN_HTTP,
    );
    if !host.is_empty()
        && let Some(message) = settings.refuse_host(&host)
    {
        faults.add(format!("{path}.baseUrl"), message);
    }
    let crd::Timeouts {
        connect_seconds,
        first_byte_seconds,
        idle_seconds,
        total_seconds,
    } = timeouts;
    if let Some(message) = settings.refuse_idle(Duration::from_secs((*idle_seconds).into())) {
        faults.add(format!("{path}.timeouts.idleSeconds"), message);
    }
    ProviderDocument {
        kind: match kind {
            crd::ProviderKind::OpenAiResponses => ProviderKind::OpenAiResponses,
            crd::ProviderKind::OpenAiChatCompletions => ProviderKind::OpenAiChatCompletions,
            crd::ProviderKind::VllmResponses => ProviderKind::VllmResponses,
        },
        host,
        port,
        use_http,
        api_path: api_path.clone(),
        auth: auth.as_ref().map(|auth| AuthDocument {
            header: auth.header.clone(),
            prefix: auth.prefix.clone(),
            secret_ref: secret_ref(&auth.secret_key_ref),
        }),
        timeouts: TimeoutsDocument {
            connect_seconds: Some(*connect_seconds),
            first_byte_seconds: Some(*first_byte_seconds),
            idle_seconds: Some(*idle_seconds),
            total_seconds: Some(*total_seconds),
        },
        send_penalties: *send_penalties,
        send_metadata: *send_metadata,
        storage: files.as_ref().map(storage),
    }
}

fn storage(storage: &crd::Storage) -> StorageDocument {
    let crd::Storage {
        kind,
        api_version,
        backend,
        supports_file_search_filters,
    } = storage;
    StorageDocument {
        kind: Some(match kind {
            crd::StorageKind::OpenAi => StorageKind::OpenAi,
            crd::StorageKind::Azure => StorageKind::Azure,
            crd::StorageKind::None => StorageKind::None,
        }),
        api_version: api_version.clone(),
        backend: backend.clone(),
        supports_file_search_filters: *supports_file_search_filters,
    }
}

/// Whether `url` is plain HTTP, its host and its port (D19). `None` when the
/// host is empty or the port is none.
pub(super) fn base_url_parts(url: &str) -> Option<(bool, String, u16)> {
    let (use_http, authority) = match url.strip_prefix("http://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("https://")?),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let default_port = if use_http { 80 } else { 443 };
    // In an IPv6 address colons stand before the closing bracket.
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[after_host..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            (host, port[1..].parse().ok()?)
        }
        None => (authority, default_port),
    };
    (!host.is_empty() && port != 0).then(|| (use_http, host.to_owned(), port))
}

fn model(model: &crd::Model) -> ModelDocument {
    let crd::Model {
        id,
        provider_model_id,
        display_name,
        description,
        provider_ref,
        tier,
        enabled,
        multimodal_capabilities,
        context_window,
        max_output_tokens,
        max_input_tokens,
        input_tokens_credit_multiplier_micro,
        output_tokens_credit_multiplier_micro,
        multiplier_display,
        estimation_budgets,
        tool_support,
        max_tool_calls,
        max_num_results,
        web_search_context_size,
        api_params: params,
        preference,
        system_prompt,
        max_file_size_mb,
    } = model;
    ModelDocument {
        id: id.clone(),
        provider_model_id: provider_model_id.clone(),
        display_name: display_name.clone(),
        description: description.clone(),
        provider_id: provider_ref.clone(),
        tier: match tier {
            crd::Tier::Standard => Tier::Standard,
            crd::Tier::Premium => Tier::Premium,
        },
        enabled: *enabled,
        multimodal_capabilities: multimodal_capabilities.clone(),
        context_window: *context_window,
        max_output_tokens: *max_output_tokens,
        max_input_tokens: *max_input_tokens,
        input_tokens_credit_multiplier_micro: *input_tokens_credit_multiplier_micro,
        output_tokens_credit_multiplier_micro: *output_tokens_credit_multiplier_micro,
        multiplier_display: multiplier_display.clone(),
        estimation_budgets: budgets(estimation_budgets),
        max_tool_calls: *max_tool_calls,
        max_num_results: (*max_num_results != MAX_NUM_RESULTS).then_some(*max_num_results),
        web_search_context_size: context_size(*web_search_context_size),
        general_config: GeneralConfigDocument {
            api_params: api_params(params),
            tool_support: self::tool_support(tool_support),
        },
        preference: preference.as_ref().map(|p| PreferenceDocument {
            is_default: p.is_default,
            sort_order: p.sort_order,
        }),
        system_prompt: system_prompt.clone(),
        max_file_size_mb: *max_file_size_mb,
    }
}

fn uploads(limits: &crd::Uploads) -> UploadLimits {
    let crd::Uploads {
        max_file_size_kb,
        max_image_size_kb,
        max_documents_per_chat,
        max_total_upload_mb_per_chat,
        max_concurrent_uploads,
        max_concurrent_uploads_per_user,
    } = *limits;
    UploadLimits {
        max_file_size_kb,
        max_image_size_kb,
        max_documents_per_chat,
        max_total_upload_mb_per_chat,
        max_concurrent_uploads,
        max_concurrent_uploads_per_user,
    }
}

fn budgets(budgets: &crd::EstimationBudgets) -> EstimationBudgets {
    let crd::EstimationBudgets {
        bytes_per_token_conservative,
        fixed_overhead_tokens,
        safety_margin_pct,
        image_token_budget,
        tool_surcharge_tokens,
        web_search_surcharge_tokens,
        code_interpreter_surcharge_tokens,
        minimal_generation_floor,
    } = *budgets;
    EstimationBudgets {
        bytes_per_token_conservative,
        fixed_overhead_tokens,
        safety_margin_pct,
        image_token_budget,
        tool_surcharge_tokens,
        web_search_surcharge_tokens,
        code_interpreter_surcharge_tokens,
        minimal_generation_floor,
    }
}

fn context(context: &crd::Context) -> ContextDocument {
    let crd::Context {
        recent_messages_limit,
        web_search_guard,
        file_search_guard,
    } = context;
    ContextDocument {
        recent_messages_limit: *recent_messages_limit,
        web_search_guard: web_search_guard.clone(),
        file_search_guard: file_search_guard.clone(),
    }
}

fn thread_summary(summary: &crd::ThreadSummary) -> ThreadSummaryDocument {
    let crd::ThreadSummary {
        enabled,
        model_id,
        compression_threshold_pct,
        system_prompt,
    } = summary;
    ThreadSummaryDocument {
        enabled: *enabled,
        model_id: model_id.clone(),
        compression_threshold_pct: *compression_threshold_pct,
        system_prompt: system_prompt.clone(),
    }
}

fn tool_support(tools: &crd::ToolSupport) -> ToolSupportDocument {
    let crd::ToolSupport {
        web_search,
        file_search,
        code_interpreter,
    } = *tools;
    ToolSupportDocument {
        web_search,
        file_search,
        code_interpreter,
    }
}

/// `None` for the default, so that a document has the hash that an earlier release
/// computed for it.
fn context_size(size: crd::SearchContextSize) -> Option<SearchContextSize> {
    match size {
        crd::SearchContextSize::Low => None,
        crd::SearchContextSize::Medium => Some(SearchContextSize::Medium),
        crd::SearchContextSize::High => Some(SearchContextSize::High),
    }
}

fn api_params(params: &crd::ApiParams) -> ApiParamsDocument {
    let crd::ApiParams {
        temperature,
        top_p,
        frequency_penalty,
        presence_penalty,
        stop,
        reasoning_effort,
        extra_body,
    } = params;
    ApiParamsDocument {
        temperature: *temperature,
        top_p: *top_p,
        frequency_penalty: *frequency_penalty,
        presence_penalty: *presence_penalty,
        stop: stop.clone(),
        extra_body: extra_body.clone().map(Value::Object),
        reasoning_effort: reasoning_effort.clone(),
    }
}

/// Faults of a document with paths that a reader of the manifest knows. Only
/// what CEL does not check gets here, such as the size of the whole, and what an
/// API server let in that had no such rule then.
pub(super) fn in_words_of_the_manifest(faults: Faults) -> Faults {
    let renamed = faults.0.into_iter().map(|fault| Fault {
        path: camel_case(
            &format!("spec.{}", fault.path)
                .trim_end_matches('.')
                .replace("model_catalog", "models")
                .replace(".provider_id", ".provider_ref")
                .replace("spec.issuers", "spec.auth.issuers"),
        ),
        message: fault.message,
    });
    Faults(renamed.collect())
}

fn camel_case(path: &str) -> String {
    let mut words = path.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}
