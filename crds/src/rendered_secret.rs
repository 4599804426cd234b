//! The rendered Secret (K8S-20), which carries one tenant's configuration from the operator to
//! the data plane. Both use this module, so they agree on the format.
//!
//! `tenant.json` holds the document without any secret value, `credentials.json` holds the
//! credentials by reference name, and the annotation [`REVISION`] identifies both together.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minichat_config::issuer::url_host;
use minichat_config::tenant::{Scheme, Sinks};
use minichat_config::{Credentials, Fault, Faults, TenantConfig};
use minichat_core::{NamespacedName, NotANamespacedName, TenantId, Timestamp};

use crate::RenderSettings;

/// The Secret's `type`, which is immutable.
pub const TYPE: &str = "minichat.dev/tenant-config";
/// Key of the tenant's document.
pub const TENANT_KEY: &str = "tenant.json";
/// Key of the tenant's credentials.
pub const CREDENTIALS_KEY: &str = "credentials.json";
/// Annotation with `<policy version>-<12 hex digits>`.
pub const REVISION: &str = "minichat.dev/revision";
/// Annotation with `namespace/name` of the `ChatTenant`, for people and for the
/// scan that removes what has lost its tenant. The document says the same.
pub const SOURCE: &str = "minichat.dev/source";
/// Annotation with the uid of that `ChatTenant`: one that is made again under the
/// same name is another. Older operators did not write it.
pub const SOURCE_UID: &str = "minichat.dev/source-uid";
/// Label, with the value `true`, of the Secrets that tenants of their namespace may
/// name (D49). Without it, a user who may write tenants could read any Secret by sending it to
/// a provider of his own.
pub const CREDENTIALS_LABEL: &str = "minichat.dev/credentials";
/// Label with the name of the pool that serves the tenant.
pub const POOL_LABEL: &str = "minichat.dev/pool";
/// Largest sum of both keys in bytes; the API server takes 1 MiB of all.
const MAX_BYTES: usize = 900 * 1024;
const NAME_PREFIX: &str = "minichat-tenant-";

/// One tenant as it travels.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedTenant {
    /// The `ChatTenant` that it was rendered from.
    pub source: NamespacedName,
    /// Numbered: [`TenantConfig::policy_version`] is present.
    pub config: TenantConfig,
    /// By reference name, `<secret>/<key>`.
    pub credentials: Credentials,
    /// `<policy version>-<12 hex digits>`: what `/configz` shows.
    pub revision: String,
}

/// The texts of both keys.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// [`TENANT_KEY`].
    pub tenant: &'a str,
    /// [`CREDENTIALS_KEY`].
    pub credentials: &'a str,
}

/// `minichat-tenant-<tenant id>`.
pub fn name(tenant: TenantId) -> String {
    format!("{NAME_PREFIX}{tenant}")
}

/// The tenant whose rendered Secret is called `name`. It is known even when
/// what the Secret holds is not valid.
pub fn tenant_of(name: &str) -> Option<TenantId> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

impl RenderedTenant {
    /// The Secret that carries this tenant to the pods of `pool`, without a
    /// namespace, owners and further labels. `generated_at` is when the document
    /// was first rendered like this. A fault says by how much it is too large.
    pub fn to_pool_secret(&self, pool: &str, generated_at: Timestamp) -> Result<Secret, Faults> {
        let mut document = (*self.config.document).clone();
        document.generated_at = Some(generated_at.to_string());
        document.source = Some(self.source.clone());
        document.content_hash = Some(self.config.content_hash.clone());
        let document = document
            .to_json()
            .map_err(|error| whole(error.to_string()))?;
        let exposed: BTreeMap<_, _> = self
            .credentials
            .iter()
            .map(|(reference, secret)| (reference, secret.expose()))
            .collect();
        let credentials =
            serde_json::to_string(&exposed).map_err(|error| whole(error.to_string()))?;
        let bytes = document.len() + credentials.len();
        if bytes > MAX_BYTES {
            return Err(whole(format!(
                "the rendered Secret has {bytes} bytes; at most {MAX_BYTES} are allowed: {}",
                what_to_shorten(document.len(), credentials.len())
            )));
        }
        let data = [(TENANT_KEY, document), (CREDENTIALS_KEY, credentials)];
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(name(self.config.tenant_id)),
                labels: Some(text_map(&[(POOL_LABEL, pool)])),
                annotations: Some(text_map(&[
                    (REVISION, &self.revision),
                    (SOURCE, self.source.as_str()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some(
                data.into_iter()
                    .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
                    .collect(),
            ),
            ..Secret::default()
        })
    }

    /// Reads what [`Self::to_pool_secret`] wrote. Paths of faults begin with the
    /// key they stand in.
    pub fn from_secret(secret: &Secret, settings: &RenderSettings) -> Result<Self, Faults> {
        let found = secret.type_.as_deref().unwrap_or_default();
        if found != TYPE {
            return Err(at("type", format!("is {found:?}; must be {TYPE}")));
        }
        let revision = annotation(secret, REVISION)
            .ok_or_else(|| at(&annotation_path(REVISION), "is required"))?;
        let data = secret.data.as_ref();
        let key = |key: &str| {
            let bytes = data.and_then(|data| data.get(key));
            let bytes = bytes.ok_or_else(|| at(key, "is required"))?;
            std::str::from_utf8(&bytes.0).map_err(|_| at(key, "must be UTF-8"))
        };
        let keys = Keys {
            tenant: key(TENANT_KEY)?,
            credentials: key(CREDENTIALS_KEY)?,
        };
        let source = annotation(secret, SOURCE);
        let tenant = Self::parse(revision, source, keys, settings)?;
        let expected = name(tenant.config.tenant_id);
        match secret.metadata.name.as_deref() {
            Some(name) if name != expected => Err(at(
                &format!("{TENANT_KEY}.tenant_id"),
                format!("does not belong into {name}, only into {expected}"),
            )),
            _ => Ok(tenant),
        }
    }

    /// Reads both keys, as a Secret or the files of a mounted one hold them.
    /// `annotated_source` is the annotation [`SOURCE`], which no mounted Secret
    /// has: only documents of older operators lack what it says.
    pub fn parse(
        revision: &str,
        annotated_source: Option<&str>,
        Keys {
            tenant,
            credentials,
        }: Keys<'_>,
        settings: &RenderSettings,
    ) -> Result<Self, Faults> {
        let config = TenantConfig::from_json(tenant).map_err(|faults| below(TENANT_KEY, faults))?;
        // The text of a JSON error may quote the value.
        let credentials: Credentials = serde_json::from_str(credentials)
            .map_err(|_| at(CREDENTIALS_KEY, "must be a JSON object of texts"))?;
        let mut faults = Faults::default();
        faults.require(
            config.policy_version.is_some(),
            format!("{TENANT_KEY}.policy_version"),
            "is required",
        );
        let number = config.policy_version.unwrap_or_default().to_string();
        faults.require(
            revision.split_once('-').is_some_and(|(version, digits)| {
                version == number && !digits.is_empty() && digits.is_ascii()
            }),
            annotation_path(REVISION),
            format!("is {revision:?}; must begin with the policy version, {number}-"),
        );
        let source = source(config.document.source.as_ref(), annotated_source);
        usable(&config, &credentials, settings, &mut faults);
        match source {
            Ok(source) => faults.into_result(Self {
                source,
                config,
                credentials,
                revision: revision.to_owned(),
            }),
            Err(fault) => {
                faults.0.push(fault);
                Err(faults)
            }
        }
    }
}

/// Whom the tenant's id belongs to: what the document says, and of an older
/// operator's document what the annotation says.
fn source(
    document: Option<&NamespacedName>,
    annotated: Option<&str>,
) -> Result<NamespacedName, Fault> {
    let fault = |path: String, message: String| Err(Fault { path, message });
    match (document, annotated) {
        (Some(source), None) => Ok(source.clone()),
        (Some(source), Some(annotated)) if source.as_str() == annotated => Ok(source.clone()),
        (Some(source), Some(annotated)) => fault(
            annotation_path(SOURCE),
            format!("is {annotated:?}, but {TENANT_KEY}.source is {source}; the two must agree"),
        ),
        (None, Some(annotated)) => annotated
            .parse()
            .or_else(|error: NotANamespacedName| fault(annotation_path(SOURCE), error.to_string())),
        (None, None) => fault(
            format!("{TENANT_KEY}.source"),
            "is required: namespace/name of the ChatTenant; an operator of this release writes it"
                .to_owned(),
        ),
    }
}

fn what_to_shorten(document: usize, credentials: usize) -> String {
    let advice = if credentials > document {
        "are these the right keys of the right Secrets in spec.providers[].auth.secretKeyRef and of the sinks?"
    } else {
        "name fewer users in ChatQuota objects, or shorten systemPrompt and extraBody of models"
    };
    format!("the configuration takes {document} and credentials take {credentials}; {advice}")
}

/// The revision that `secret` claims to carry, valid or not.
pub fn revision_of(secret: &Secret) -> Option<&str> {
    annotation(secret, REVISION)
}

/// The `ChatTenant` that `secret` claims to come from, valid or not.
pub fn source_of(secret: &Secret) -> Option<&str> {
    annotation(secret, SOURCE)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

fn annotation_path(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// Every provider and sink can be called: its scheme is allowed and its credential
/// here. Every issuer can be asked for its keys.
fn usable(
    config: &TenantConfig,
    credentials: &Credentials,
    settings: &RenderSettings,
    faults: &mut Faults,
) {
    match config.sinks(credentials) {
        Ok(sinks) => callable(&sinks, settings, faults),
        Err(found) => faults.0.extend(below(TENANT_KEY, found).0),
    }
    for (i, issuer) in config.issuers.iter().enumerate() {
        faults.require(
            settings.allow_http || !issuer.is_plain_http(),
            format!("{TENANT_KEY}.issuers[{i}]"),
            "plain http is not allowed by this process; set provider_http.allow_http, or use https",
        );
        if let Some(host) = url_host(issuer.first_fetched_url())
            && let Some(message) = settings.refuse_host(host)
        {
            faults.add(format!("{TENANT_KEY}.issuers[{i}]"), message);
        }
    }
    for (id, provider) in &config.providers {
        let path = format!("{TENANT_KEY}.providers.{id}");
        if let Some(message) = settings.refuse_host(&provider.host) {
            faults.add(format!("{path}.host"), message);
        }
        faults.require(
            provider.scheme != Scheme::Http || settings.allow_http,
            format!("{path}.use_http"),
            "plain http is not allowed by this process; set provider_http.allow_http, or use https",
        );
        if let Some(message) = settings.refuse_idle(provider.timeouts.idle) {
            faults.add(format!("{path}.timeouts.idle_seconds"), message);
        }
        if let Some(auth) = &provider.auth {
            let credential = credentials.get(&auth.secret_ref);
            faults.require(
                credential.is_some_and(minichat_config::Secret::is_header_value),
                format!("{path}.auth.secret_ref"),
                format!(
                    "{CREDENTIALS_KEY} has no {} that a header may carry",
                    auth.secret_ref
                ),
            );
        }
    }
}

fn callable(sinks: &Sinks, settings: &RenderSettings, faults: &mut Faults) {
    for (field, sink) in sinks.by_field() {
        let Some(webhook) = sink.webhook() else {
            continue;
        };
        let path = format!("{TENANT_KEY}.{field}.webhook.url");
        if let Some(message) = settings.refuse_host(&webhook.url.host) {
            faults.add(&path, message);
        }
        faults.require(
            webhook.url.scheme != Scheme::Http || settings.allow_http,
            path,
            "plain http is not allowed by this process; set provider_http.allow_http, or use https",
        );
    }
}

fn text_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn at(path: &str, message: impl Into<String>) -> Faults {
    let mut faults = Faults::default();
    faults.add(path, message);
    faults
}

fn whole(message: String) -> Faults {
    at("", message)
}

fn below(key: &str, faults: Faults) -> Faults {
    let moved = faults.0.into_iter().map(|fault| Fault {
        path: match fault.path.as_str() {
            "" => key.to_owned(),
            path => format!("{key}.{path}"),
        },
        message: fault.message,
    });
    Faults(moved.collect())
}

#[cfg(test)]
mod tests {
    use minichat_config::Secret as Value;
    use serde_json::json;

    use super::*;
    use crate::cases::{tenant, with};
    use crate::render::Secrets;
    use crate::{Revisions, render, validation};

    const STRICT: &RenderSettings = &RenderSettings::STRICT;

    fn rendered(temperature: f64) -> RenderedTenant {
        let auth = json!({"secretKeyRef": {"name": "main", "key": "key"}});
        let object = with(tenant(), "/spec/providers/0/auth", auth);
        let object = with(
            object,
            "/spec/models/0/apiParams",
            json!({"temperature": temperature}),
        );
        let keys = BTreeMap::from([("key".to_owned(), Value::new("sk-visible").into())]);
        let secrets = Secrets::from([("main".to_owned(), keys)]);
        let tenant = validation::chat_tenant(&object, None).unwrap();
        let rendered = render(&tenant, &[], &secrets, STRICT).unwrap();
        let hash = &rendered.config.content_hash;
        RenderedTenant {
            source: "team-a/acme".parse().unwrap(),
            revision: Revisions::new().of(7, hash, &rendered.credentials),
            config: rendered.config.numbered(7),
            credentials: rendered.credentials,
        }
    }

    fn secret(tenant: &RenderedTenant) -> Secret {
        let at = "2026-02-28T15:30:00Z".parse().unwrap();
        tenant.to_pool_secret("main", at).unwrap()
    }

    fn edited(key: &str, from: &str, to: &str) -> Faults {
        let mut secret = secret(&rendered(0.5));
        let text = secret
            .data
            .as_mut()
            .and_then(|data| data.get_mut(key))
            .unwrap();
        let edited = std::str::from_utf8(&text.0).unwrap().replace(from, to);
        assert_ne!(edited.as_bytes(), text.0, "{from}");
        text.0 = edited.into_bytes();
        RenderedTenant::from_secret(&secret, STRICT).unwrap_err()
    }

    /// K8S-20
    #[test]
    fn what_is_written_is_what_is_read() {
        let tenant = rendered(0.5);
        let secret = secret(&tenant);
        let read = RenderedTenant::from_secret(&secret, STRICT).unwrap();
        assert_eq!(read.credentials, tenant.credentials);
        assert_eq!(read.config.content_hash, tenant.config.content_hash);
        assert_eq!(read.config.policy_version, Some(7));
        assert_eq!(read.revision, tenant.revision);
        assert_eq!(read.source, tenant.source);
        assert_eq!(annotation(&secret, SOURCE), Some("team-a/acme"));
        assert_eq!(secret.type_.as_deref(), Some(TYPE));
        let name = secret.metadata.name.as_deref().unwrap();
        assert_eq!(tenant_of(name), Some(tenant.config.tenant_id));
        assert_eq!(tenant_of("minichat-tenant-acme"), None);
        assert_eq!(revision_of(&secret), Some(tenant.revision.as_str()));
        assert!(tenant.revision.starts_with("7-") && tenant.revision.len() == 14);
    }

    /// K8S-20: the document is not secret, the other key is.
    #[test]
    fn only_the_second_key_holds_secrets() {
        let data = secret(&rendered(0.5)).data.unwrap();
        let text = |key: &str| std::str::from_utf8(&data[key].0).unwrap().to_owned();
        assert!(!text(TENANT_KEY).contains("sk-visible"));
        assert_eq!(text(CREDENTIALS_KEY), r#"{"main/key":"sk-visible"}"#);
    }

    /// QUOTA-26: hashes cover numbers that have been through text.
    #[test]
    fn a_number_survives_the_way() {
        for temperature in [0.1, 0.7, 1.1, 0.300_000_000_000_000_04, f64::MIN_POSITIVE] {
            let secret = secret(&rendered(temperature));
            let read = RenderedTenant::from_secret(&secret, STRICT).unwrap();
            let found = read.config.models[0].api_params.temperature;
            assert_eq!(found.map(f64::to_bits), Some(temperature.to_bits()));
        }
    }

    /// K8S-22: what a person may have edited is refused with the field's path.
    #[test]
    fn an_edited_secret_is_refused_with_the_path_of_the_field() {
        let found = edited(TENANT_KEY, "\"schema\":1", "\"schema\":2").to_string();
        assert!(found.contains("tenant.json.schema: must be 1"), "{found}");
        let found = edited(
            TENANT_KEY,
            "\"display_name\":\"\"",
            "\"display_name\":\"x\"",
        );
        assert!(found.to_string().contains("tenant.json.content_hash"));
        let found = edited(TENANT_KEY, "\"policy_version\":7", "\"policy_version\":8");
        assert!(
            found
                .to_string()
                .contains("must begin with the policy version, 8-")
        );
        let found = edited(CREDENTIALS_KEY, "main/key", "main/other").to_string();
        assert!(
            found.contains("tenant.json.providers.main.auth.secret_ref"),
            "{found}"
        );
        let found = edited(CREDENTIALS_KEY, "\"sk-visible\"", "[\"sk-visible\"]").to_string();
        assert!(found.starts_with("credentials.json: ") && !found.contains("sk-visible"));
        let found = edited(CREDENTIALS_KEY, "sk-visible", "sk-\\n").to_string();
        assert!(found.contains("that a header may carry"), "{found}");
    }

    /// D36: the document and the annotation name one owner. Older operators
    /// wrote the annotation only, which no mounted Secret has.
    #[test]
    fn document_and_annotation_name_the_same_source() {
        let mut secret = secret(&rendered(0.5));
        let annotate = |secret: &mut Secret, source: Option<&str>| {
            let annotations = secret.metadata.annotations.as_mut().unwrap();
            match source {
                Some(source) => annotations.insert(SOURCE.to_owned(), source.to_owned()),
                None => annotations.remove(SOURCE),
            };
        };
        let read = |secret: &Secret| RenderedTenant::from_secret(secret, STRICT);
        annotate(&mut secret, Some("team-b/acme"));
        assert_eq!(
            read(&secret).unwrap_err().to_string(),
            "metadata.annotations[minichat.dev/source]: is \"team-b/acme\", but tenant.json.source is team-a/acme; the two must agree"
        );
        annotate(&mut secret, None);
        assert_eq!(read(&secret).unwrap().source.as_str(), "team-a/acme");

        let data = secret.data.as_mut().unwrap();
        let document = std::str::from_utf8(&data[TENANT_KEY].0).unwrap();
        let without = document.replace("\"source\":\"team-a/acme\",", "");
        assert_ne!(document, without);
        data.insert(TENANT_KEY.to_owned(), ByteString(without.into_bytes()));
        let found = read(&secret).unwrap_err();
        assert_eq!(found.0.len(), 1, "{found}");
        assert_eq!(found.0[0].path, "tenant.json.source");
        annotate(&mut secret, Some("team-b/acme"));
        assert_eq!(read(&secret).unwrap().source.as_str(), "team-b/acme");
        annotate(&mut secret, Some("../acme"));
        let found = read(&secret).unwrap_err();
        assert_eq!(found.0[0].path, "metadata.annotations[minichat.dev/source]");
    }

    #[test]
    fn a_secret_under_another_name_or_type_is_refused() {
        let mut other = secret(&rendered(0.5));
        other.metadata.name = Some(name(TenantId::random()));
        let found = RenderedTenant::from_secret(&other, STRICT).unwrap_err();
        assert_eq!(found.0[0].path, "tenant.json.tenant_id");
        other.type_ = Some("Opaque".to_owned());
        let found = RenderedTenant::from_secret(&other, STRICT).unwrap_err();
        assert_eq!(found.0[0].path, "type");
    }

    /// K8S-20: the API server would refuse more than 1 MiB.
    #[test]
    fn a_secret_that_is_too_large_is_refused_in_words() {
        let mut tenant = rendered(0.5);
        let large = Value::new("x".repeat(MAX_BYTES));
        tenant.credentials.insert("main/large", large);
        let at = "2026-02-28T15:30:00Z".parse().unwrap();
        let faults = tenant.to_pool_secret("main", at).unwrap_err();
        let faults = faults.to_string();
        assert!(faults.contains("at most 921600 are allowed"), "{faults}");
        assert!(faults.contains("credentials take 921"), "{faults}");
        assert!(faults.contains("right Secrets"), "{faults}");
    }
}
