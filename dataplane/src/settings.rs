//! What the process configuration says to the libraries that the process uses.

use minichat_config::ProcessConfig;
use minichat_config::process::Auth;
use minichat_crds::RenderSettings;
use minichat_provider::ClientSettings;

pub(crate) const NO_SOURCE: &str = "no source of tenants: give one of --manifests DIR, --directory DIR and --pool NAME, \
    or source.manifests, source.directory or source.pool in the configuration";

pub(crate) fn client_settings(config: &ProcessConfig) -> ClientSettings {
    ClientSettings {
        max_event_bytes: config.provider_http.max_event_bytes,
        max_answer_bytes: config.provider_http.max_answer_bytes,
        outbound: config.outbound.clone(),
        ..ClientSettings::default()
    }
}

/// Limits of the process for its tenants.
pub(crate) fn render_settings(config: &ProcessConfig) -> RenderSettings {
    RenderSettings {
        allow_http: config.provider_http.allow_http,
        allow_private: Some(config.outbound.allow_private.clone()),
        orphan_timeout: config.orphan_watchdog.timeout,
        issuer: match &config.auth {
            Auth::Oidc(Some(issuer)) => Some(issuer.issuer.as_str().into()),
            _ => None,
        },
    }
}
