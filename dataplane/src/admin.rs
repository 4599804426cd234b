//! The admin listener of a data plane: health, readiness, metrics and
//! `/configz` (K8S-22).

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use minichat_config::process::Auth;
use minichat_core::TenantId;
use minichat_telemetry::admin::{self, Readiness};
use minichat_telemetry::{Exposition, Lifecycle, Signal};

use crate::app::App;
use crate::config_source::{ConfigSource, Configz};
use crate::database::Probe;

/// Routes of the admin listener: health, metrics and `/configz`.
pub(crate) fn router(
    app: &Arc<App>,
    source: &ConfigSource,
    exposition: Exposition,
    lifecycle: &Lifecycle,
) -> Router {
    let of_configz = Arc::clone(app);
    let draining = lifecycle.draining.clone();
    let of_readiness = Arc::clone(app);
    let tenants = source.readiness();
    let readiness = move || {
        let (app, draining, tenants) = (Arc::clone(&of_readiness), draining.clone(), tenants());
        async move { readiness(&app.probe, &draining, tenants).await }
    };
    let status = source.status();
    let configz = get(move || {
        let mut configz = Configz::clone(&status.configz());
        let default = default_tenant(&of_configz);
        for entry in &mut configz {
            entry.default = Some(entry.tenant_id) == default;
        }
        async move { axum::Json(configz) }
    });
    let configz = Router::new().route("/configz", configz);
    admin::router(exposition, readiness, configz)
}

/// The tenant of requests that name none; only in mode `dev` (D51).
pub(crate) fn default_tenant(app: &App) -> Option<TenantId> {
    match &app.config.auth {
        Auth::Dev(dev) => dev.tenant_id.or_else(|| app.tenants.default_id()),
        Auth::Oidc(_) | Auth::TrustedHeaders(_) => None,
    }
}

/// The readiness that a send would experience now (D43).
async fn readiness(probe: &Probe, draining: &Signal, tenants: Option<&str>) -> Readiness {
    let mut readiness = Readiness::ok();
    if draining.is_fired() {
        readiness = readiness.not_ready("draining");
    }
    if let Some(reason) = tenants {
        readiness = readiness.not_ready(reason);
    }
    if let Err(reason) = probe.check().await {
        readiness = readiness.not_ready(&*reason);
    }
    readiness
}
