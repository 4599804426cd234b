//! The admin listener of a data plane: health, readiness, metrics and
//! `/configz` (K8S-22).

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use minichat_config::process::{Auth, OutboxKind};
use minichat_config::tenant::Sink;
use minichat_core::TenantId;
use minichat_telemetry::admin::{self, Readiness};
use minichat_telemetry::{Exposition, Lifecycle, Signal};

use crate::app::App;
use crate::config_source::{ConfigSource, Configz, SinkStates};
use crate::dead_letter;

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
        async move { readiness(&app, &draining, tenants).await }
    };
    let status = source.status();
    let configz = get(move || {
        let mut configz = Configz::clone(&status.configz());
        let default = default_tenant(&of_configz);
        for entry in &mut configz {
            entry.default = Some(entry.tenant_id) == default;
            entry.sinks = sinks(&of_configz, entry.tenant_id);
        }
        async move { axum::Json(configz) }
    });
    let more = Router::new()
        .route("/configz", configz)
        .merge(dead_letter::admin::router(app));
    admin::router(exposition, readiness, more)
}

/// The tenant of requests that name none; only in mode `dev` (D51).
pub(crate) fn default_tenant(app: &App) -> Option<TenantId> {
    match &app.config.auth {
        Auth::Dev(dev) => dev.tenant_id.or_else(|| app.tenants.default_id()),
        Auth::Oidc(_) | Auth::TrustedHeaders(_) => None,
    }
}

/// The state of each sink of a tenant that has one.
fn sinks(app: &App, tenant: TenantId) -> Option<SinkStates> {
    let runtime = app.tenants.get(tenant)?;
    let sinks = runtime.sinks().ok()?;
    let state = |kind, sink: &Sink| {
        (*sink != Sink::None).then(|| app.survey.sink(app.outbox.queue(kind), tenant))
    };
    let states = SinkStates {
        usage: state(OutboxKind::Usage, &sinks.usage),
        audit: state(OutboxKind::Audit, &sinks.audit),
    };
    (states.usage.is_some() || states.audit.is_some()).then_some(states)
}

/// The readiness that a send would experience now (D43).
async fn readiness(app: &App, draining: &Signal, tenants: Option<&str>) -> Readiness {
    let mut readiness = Readiness::ok();
    if draining.is_fired() {
        readiness = readiness.not_ready("draining");
    }
    if let Some(reason) = tenants {
        readiness = readiness.not_ready(reason);
    }
    if let Err(reason) = app.probe.check().await {
        readiness = readiness.not_ready(&*reason);
    }
    let usage = app.outbox.queue(OutboxKind::Usage);
    for reason in app.survey.reasons(usage, app.clock.now()) {
        readiness = readiness.degraded(reason);
    }
    readiness
}
