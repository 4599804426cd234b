//! Validates a document: all bounds of QUOTA-16, QUOTA-17, QUOTA-23, QUOTA-24 and
//! PLAT-154 that concern one tenant.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use minichat_core::quota::credits::{MAX_MULTIPLIER_MICRO, MAX_TOKENS};
use minichat_core::quota::{EstimationBudgets, Pricing, Tier, TierLimits, ToolSupport};

use super::document::{
    ApiParamsDocument, AuthDocument, ContextDocument, MAX_NUM_RESULTS, ModelDocument,
    ProviderDocument, SCHEMA, TenantDocument, ThreadSummaryDocument, TimeoutsDocument,
    UserLimitsDocument,
};
use super::issuers;
use super::provider::{Provider, ProviderAuth, ProviderTimeouts, Scheme};
use super::quota::UserLimits;
use super::request_line;
use super::sink;
use super::storage;
use super::{
    ApiParams, ContextSettings, Features, ImageSettings, Model, Preference, TenantConfig,
    UserLimitTable,
};
use crate::fault::Faults;

/// Maximum size of a document in bytes (QUOTA-26).
pub(super) const MAX_DOCUMENT_BYTES: usize = 900 * 1024;
const MAX_MODELS: usize = 64;
const MAX_PROVIDERS: usize = 16;
/// As many as a message may have attachments (API-62).
const MAX_IMAGES: u32 = 20;
/// CONT-3
const WEB_SEARCH_GUARD: &str = "Call web_search only when neither the conversation nor your own knowledge can answer, never for common knowledge, and at most once for one answer.";
/// CONT-3
const FILE_SEARCH_GUARD: &str =
    "Look into the user's documents with file_search before you rely on general knowledge.";
const API_PATH: &str = "must begin with one `/` and be the path and query of a URL, such as `/v1/responses`; write other characters as `%20`";

pub(super) fn tenant(document: TenantDocument) -> Result<TenantConfig, Faults> {
    let mut faults = Faults::default();
    let content_hash = document_as_a_whole(&document, &mut faults);
    let cap = document.max_output_tokens;
    faults.require(cap > 0, "max_output_tokens", "must be at least 1");
    faults.require(
        document.context.recent_messages_limit <= 100,
        "context.recent_messages_limit",
        "must be 0 to 100",
    );
    let images = document.images.max_per_message;
    faults.require(
        (1..=MAX_IMAGES).contains(&images),
        "images.max_per_message",
        format!("must be 1 to {MAX_IMAGES}"),
    );
    let issuers = issuers::issuers(&document.issuers, &mut faults);
    let providers = providers(&document.providers, &mut faults);
    let models = models(
        &document.model_catalog,
        cap,
        &document.providers,
        &mut faults,
    );
    let user_limits = user_limits(&document.user_limits, &mut faults);
    sink::check(&document, &mut faults);
    document.uploads.check(&mut faults);
    thread_summary(&document, &mut faults);
    faults.into_result(TenantConfig {
        tenant_id: document.tenant_id,
        policy_version: document.policy_version,
        content_hash,
        display_name: document.display_name.clone(),
        suspended: document.suspended,
        features: Features {
            ai_chat: document.features.ai_chat,
        },
        issuers,
        max_output_tokens: cap,
        models,
        kill_switches: document.kill_switches,
        user_limits,
        providers,
        context: context(&document.context),
        images: ImageSettings {
            max_per_message: images,
        },
        uploads: document.uploads,
        document: Arc::new(document),
    })
}

/// PLAT-154
fn thread_summary(document: &TenantDocument, faults: &mut Faults) {
    let ThreadSummaryDocument {
        enabled: _,
        model_id,
        compression_threshold_pct,
        system_prompt: _,
    } = &document.thread_summary;
    if let Some(id) = model_id {
        faults.require(
            document.model_catalog.iter().any(|model| model.id == *id),
            "thread_summary.model_id",
            format!("no model is called `{id}`"),
        );
    }
    faults.require(
        compression_threshold_pct.is_none_or(|pct| (1..=99).contains(&pct)),
        "thread_summary.compression_threshold_pct",
        "must be 1 to 99",
    );
}

fn document_as_a_whole(document: &TenantDocument, faults: &mut Faults) -> String {
    faults.require(
        document.schema == SCHEMA,
        "schema",
        format!("must be {SCHEMA}"),
    );
    faults.require(
        document.policy_version != Some(0),
        "policy_version",
        "must be at least 1",
    );
    faults.require(
        document.display_name.chars().count() <= 253,
        "display_name",
        "must have at most 253 characters",
    );
    match document.to_json() {
        Ok(json) if json.len() > MAX_DOCUMENT_BYTES => faults.add(
            "",
            format!(
                "the rendered document has {} bytes; at most {MAX_DOCUMENT_BYTES} are allowed: {}",
                json.len(),
                what_to_shorten(document)
            ),
        ),
        Ok(_) => {}
        Err(error) => faults.add("", error.to_string()),
    }
    let computed = document.computed_hash().unwrap_or_default();
    if let Some(claimed) = &document.content_hash {
        faults.require(
            *claimed == computed,
            "content_hash",
            format!("does not match the content, whose hash is {computed}"),
        );
    }
    computed
}

/// Names the largest parts of a document that is too large.
fn what_to_shorten(document: &TenantDocument) -> String {
    let bytes = |part: serde_json::Result<Vec<u8>>| part.map_or(0, |json| json.len());
    let size = |model: &ModelDocument| bytes(serde_json::to_vec(model));
    let models = document.model_catalog.iter();
    let models = models.map(|model| (size(model), model.id.as_str()));
    let all: usize = models.clone().map(|(size, _)| size).sum();
    let largest = models.max().map_or(String::new(), |(size, id)| {
        format!("models take {all} bytes, of which model {id} takes {size}; ")
    });
    let users = &document.user_limits.by_user;
    format!(
        "{largest}limits of {} users take {} bytes; shorten systemPrompt and extraBody of models, or name fewer users in ChatQuota objects",
        users.len(),
        bytes(serde_json::to_vec(users)),
    )
}

fn providers(
    documents: &BTreeMap<String, ProviderDocument>,
    faults: &mut Faults,
) -> BTreeMap<String, Provider> {
    faults.require(
        (1..=MAX_PROVIDERS).contains(&documents.len()),
        "providers",
        format!("must have 1 to {MAX_PROVIDERS} entries"),
    );
    let providers = documents
        .iter()
        .map(|(id, document)| (id.clone(), provider(id, document, faults)))
        .collect();
    storage::check_labels(&providers, faults);
    providers
}

fn provider(id: &str, document: &ProviderDocument, faults: &mut Faults) -> Provider {
    let path = format!("providers.{id}");
    faults.require(
        is_name(id, 253),
        &path,
        "the id must have 1 to 253 characters, none of them a control character",
    );
    let host_is_plain = !document.host.is_empty()
        && document
            .host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    faults.require(
        host_is_plain,
        format!("{path}.host"),
        "must be a host name or an address",
    );
    faults.require(
        document.port != 0,
        format!("{path}.port"),
        "must be 1 to 65535",
    );
    let kind = document.kind;
    let api_path = document
        .api_path
        .clone()
        .unwrap_or_else(|| kind.default_api_path().to_owned());
    faults.require(
        request_line::is_api_path(&api_path),
        format!("{path}.api_path"),
        API_PATH,
    );
    Provider {
        id: id.to_owned(),
        kind,
        scheme: if document.use_http {
            Scheme::Http
        } else {
            Scheme::Https
        },
        host: document.host.clone(),
        port: document.port,
        api_path,
        auth: document
            .auth
            .as_ref()
            .map(|a| auth(&format!("{path}.auth"), a, faults)),
        timeouts: timeouts(&format!("{path}.timeouts"), document.timeouts, faults),
        send_penalties: document.send_penalties.unwrap_or(kind.sends_penalties()),
        send_metadata: document.send_metadata,
        storage: storage::storage(id, document, faults),
    }
}

fn auth(path: &str, document: &AuthDocument, faults: &mut Faults) -> ProviderAuth {
    faults.require(
        request_line::is_header_name(&document.header),
        format!("{path}.header"),
        "must be a header name such as `Authorization`",
    );
    faults.require(
        request_line::may_carry_credential(&document.header),
        format!("{path}.header"),
        "is a header of the connection, of framing or of routing, which carries no credential; write one such as `Authorization` or `api-key`",
    );
    faults.require(
        document
            .prefix
            .bytes()
            .all(|b| b.is_ascii_graphic() || b == b' '),
        format!("{path}.prefix"),
        "must be printable ASCII such as `Bearer `",
    );
    faults.require(
        !document.secret_ref.is_empty(),
        format!("{path}.secret_ref"),
        "must name a credential",
    );
    ProviderAuth {
        header: document.header.clone(),
        prefix: document.prefix.clone(),
        secret_ref: document.secret_ref.clone(),
    }
}

fn timeouts(path: &str, document: TimeoutsDocument, faults: &mut Faults) -> ProviderTimeouts {
    let defaults = ProviderTimeouts::default();
    let mut read = |key: &str, value: Option<u32>, default: Duration, max: u64| {
        let seconds = value.map_or(default.as_secs(), u64::from);
        faults.require(
            (1..=max).contains(&seconds),
            format!("{path}.{key}"),
            format!("must be 1 to {max}"),
        );
        Duration::from_secs(seconds)
    };
    let idle = read(
        "idle_seconds",
        document.idle_seconds,
        defaults.idle,
        defaults.idle.as_secs(),
    );
    let default_first_byte = defaults.first_byte.min(idle);
    ProviderTimeouts {
        connect: read(
            "connect_seconds",
            document.connect_seconds,
            defaults.connect,
            60,
        ),
        first_byte: read(
            "first_byte_seconds",
            document.first_byte_seconds,
            default_first_byte,
            idle.as_secs(),
        ),
        idle,
        total: read(
            "total_seconds",
            document.total_seconds,
            defaults.total,
            86_400,
        ),
    }
}

fn models(
    documents: &[ModelDocument],
    cap: u32,
    providers: &BTreeMap<String, ProviderDocument>,
    faults: &mut Faults,
) -> Vec<Model> {
    catalog_wide(documents, faults);
    documents
        .iter()
        .enumerate()
        .map(|(i, document)| {
            let path = format!("model_catalog[{i}]");
            faults.require(
                providers.contains_key(&document.provider_id),
                format!("{path}.provider_id"),
                format!("no provider is called `{}`", document.provider_id),
            );
            model(&path, document, cap, faults)
        })
        .collect()
}

/// QUOTA-17
fn catalog_wide(documents: &[ModelDocument], faults: &mut Faults) {
    faults.require(
        (1..=MAX_MODELS).contains(&documents.len()),
        "model_catalog",
        format!("must have 1 to {MAX_MODELS} entries"),
    );
    faults.require(
        documents.iter().any(|model| model.enabled),
        "model_catalog",
        "must have at least one enabled entry",
    );
    let mut ids = HashSet::new();
    for (i, document) in documents.iter().enumerate() {
        faults.require(
            ids.insert(document.id.as_str()),
            format!("model_catalog[{i}].id"),
            format!("`{}` is used twice", document.id),
        );
    }
    for tier in [Tier::Standard, Tier::Premium] {
        let defaults = documents
            .iter()
            .filter(|model| model.tier == tier && model.preference.is_some_and(|p| p.is_default))
            .count();
        faults.require(
            defaults <= 1,
            "model_catalog",
            "must have at most one default per tier",
        );
    }
}

fn model(path: &str, document: &ModelDocument, cap: u32, faults: &mut Faults) -> Model {
    model_names(path, document, faults);
    model_numbers(path, document, cap, faults);
    budgets(
        path,
        &document.estimation_budgets,
        document.max_output_tokens,
        faults,
    );
    let tools = &document.general_config.tool_support;
    Model {
        id: document.id.clone(),
        provider_model_id: document.provider_model_id.clone(),
        display_name: document.display_name.clone(),
        description: document.description.clone(),
        provider_id: document.provider_id.clone(),
        tier: document.tier,
        enabled: document.enabled,
        multimodal_capabilities: document.multimodal_capabilities.clone(),
        context_window: document.context_window,
        max_output_tokens: document.max_output_tokens,
        max_input_tokens: document.max_input_tokens,
        pricing: Pricing {
            input_multiplier_micro: document.input_tokens_credit_multiplier_micro,
            output_multiplier_micro: document.output_tokens_credit_multiplier_micro,
        },
        multiplier_display: document.multiplier_display.clone(),
        estimation_budgets: document.estimation_budgets,
        max_tool_calls: document.max_tool_calls,
        tool_support: ToolSupport {
            web_search: tools.web_search,
            file_search: tools.file_search,
            code_interpreter: tools.code_interpreter,
        },
        max_num_results: document.max_num_results.unwrap_or(MAX_NUM_RESULTS),
        web_search_context_size: document.web_search_context_size.unwrap_or_default(),
        api_params: api_params(path, &document.general_config.api_params, faults),
        preference: document.preference.map(|p| Preference {
            is_default: p.is_default,
            sort_order: p.sort_order,
        }),
        system_prompt: document.system_prompt.clone(),
        max_file_size_mb: document.max_file_size_mb,
    }
}

fn context(document: &ContextDocument) -> ContextSettings {
    let guard = |own: &Option<String>, built_in: &str| match own {
        Some(text) => text.clone(),
        None => built_in.to_owned(),
    };
    ContextSettings {
        recent_messages_limit: document.recent_messages_limit,
        web_search_guard: guard(&document.web_search_guard, WEB_SEARCH_GUARD),
        file_search_guard: guard(&document.file_search_guard, FILE_SEARCH_GUARD),
    }
}

fn model_names(path: &str, document: &ModelDocument, faults: &mut Faults) {
    faults.require(
        is_name(&document.id, 256),
        format!("{path}.id"),
        "must have 1 to 256 characters, none of them a control character",
    );
    for (key, value) in [
        ("provider_model_id", &document.provider_model_id),
        ("display_name", &document.display_name),
    ] {
        faults.require(
            !value.is_empty(),
            format!("{path}.{key}"),
            "must not be empty",
        );
    }
}

fn model_numbers(path: &str, document: &ModelDocument, cap: u32, faults: &mut Faults) {
    for (key, value) in [
        ("context_window", document.context_window),
        ("max_output_tokens", document.max_output_tokens),
        ("max_input_tokens", document.max_input_tokens),
    ] {
        faults.require(
            (1..=MAX_TOKENS).contains(&u64::from(value)),
            format!("{path}.{key}"),
            format!("must be 1 to {MAX_TOKENS}"),
        );
    }
    faults.require(
        document.max_file_size_mb != Some(0),
        format!("{path}.max_file_size_mb"),
        "must be at least 1",
    );
    faults.require(
        document.max_tool_calls > 0,
        format!("{path}.max_tool_calls"),
        "must be at least 1",
    );
    faults.require(
        document.max_num_results != Some(0),
        format!("{path}.max_num_results"),
        "must be at least 1",
    );
    faults.require(
        document.max_output_tokens.min(cap) < document.context_window,
        format!("{path}.context_window"),
        "must be greater than the output cap, the smaller one of the model's and the tenant's",
    );
    for (key, value) in [
        (
            "input_tokens_credit_multiplier_micro",
            document.input_tokens_credit_multiplier_micro,
        ),
        (
            "output_tokens_credit_multiplier_micro",
            document.output_tokens_credit_multiplier_micro,
        ),
    ] {
        faults.require(
            value <= MAX_MULTIPLIER_MICRO,
            format!("{path}.{key}"),
            format!("must be at most {MAX_MULTIPLIER_MICRO}"),
        );
    }
}

fn budgets(model: &str, budgets: &EstimationBudgets, max_output: u32, faults: &mut Faults) {
    let path = |key: &str| format!("{model}.estimation_budgets.{key}");
    faults.require(
        budgets.bytes_per_token_conservative > 0,
        path("bytes_per_token_conservative"),
        "must be at least 1",
    );
    faults.require(
        budgets.safety_margin_pct <= 1000,
        path("safety_margin_pct"),
        "must be 0 to 1000",
    );
    faults.require(
        budgets.image_token_budget > 0,
        path("image_token_budget"),
        "must be at least 1",
    );
    faults.require(
        (1..=max_output.max(1)).contains(&budgets.minimal_generation_floor),
        path("minimal_generation_floor"),
        "must be 1 to the model's max_output_tokens",
    );
}

fn api_params(model: &str, document: &ApiParamsDocument, faults: &mut Faults) -> ApiParams {
    let path = |key: &str| format!("{model}.general_config.api_params.{key}");
    let mut bounded = |key: &str, value: f64, low: f64, high: f64| {
        faults.require(
            (low..=high).contains(&value),
            path(key),
            format!("must be {low} to {high}"),
        );
    };
    bounded("temperature", document.temperature.unwrap_or(0.0), 0.0, 2.0);
    bounded("top_p", document.top_p.unwrap_or(0.0), 0.0, 1.0);
    bounded("frequency_penalty", document.frequency_penalty, -2.0, 2.0);
    bounded("presence_penalty", document.presence_penalty, -2.0, 2.0);
    faults.require(
        document.stop.len() <= 4,
        path("stop"),
        "must have at most 4 entries",
    );
    let extra_is_object = document
        .extra_body
        .as_ref()
        .is_none_or(serde_json::Value::is_object);
    faults.require(extra_is_object, path("extra_body"), "must be an object");
    ApiParams {
        temperature: document.temperature,
        top_p: document.top_p,
        frequency_penalty: document.frequency_penalty,
        presence_penalty: document.presence_penalty,
        stop: document.stop.clone(),
        extra_body: document.extra_body.clone(),
        reasoning_effort: document.reasoning_effort.clone(),
    }
}

fn user_limits(document: &UserLimitsDocument, faults: &mut Faults) -> UserLimitTable {
    limits("user_limits.default", &document.default, faults);
    let mut by_user = HashMap::with_capacity(document.by_user.len());
    for (user, value) in &document.by_user {
        limits(&format!("user_limits.by_user.{user}"), value, faults);
        by_user.insert(*user, Arc::new(value.clone()));
    }
    UserLimitTable {
        default: Arc::new(document.default.clone()),
        by_user,
    }
}

/// QUOTA-24
fn limits(path: &str, limits: &UserLimits, faults: &mut Faults) {
    let UserLimits {
        standard,
        premium,
        overshoot_tolerance_pct,
        warning_threshold_pct,
        web_search_max_calls_per_message,
        web_search_daily_quota,
        code_interpreter_max_calls_per_message,
        code_interpreter_daily_quota,
    } = limits;
    for (key, value) in [
        (
            "web_search_max_calls_per_message",
            web_search_max_calls_per_message,
        ),
        ("web_search_daily_quota", web_search_daily_quota),
        (
            "code_interpreter_max_calls_per_message",
            code_interpreter_max_calls_per_message,
        ),
        ("code_interpreter_daily_quota", code_interpreter_daily_quota),
    ] {
        faults.require(
            *value != Some(0),
            format!("{path}.{key}"),
            "must be at least 1",
        );
    }
    for (tier, TierLimits { daily, monthly }) in [("standard", standard), ("premium", premium)] {
        for (key, value) in [
            ("limit_daily_credits_micro", daily),
            ("limit_monthly_credits_micro", monthly),
        ] {
            faults.require(
                *value >= 0,
                format!("{path}.{tier}.{key}"),
                "must not be negative",
            );
        }
    }
    faults.require(
        *overshoot_tolerance_pct <= 50,
        format!("{path}.overshoot_tolerance_pct"),
        "must be 0 to 50",
    );
    faults.require(
        (1..=99).contains(warning_threshold_pct),
        format!("{path}.warning_threshold_pct"),
        "must be 1 to 99",
    );
}

fn is_name(value: &str, max: usize) -> bool {
    (1..=max).contains(&value.chars().count()) && !value.chars().any(char::is_control)
}
