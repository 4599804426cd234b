//! The admin listener: health, readiness, metrics (K8S-15).

use std::sync::Arc;

use axum::Router;
use minichat_telemetry::Exposition;
use minichat_telemetry::admin::{self, Readiness};

use crate::caches::Caches;

pub(crate) fn router(exposition: Exposition, caches: Arc<Caches>) -> Router {
    let readiness = move || {
        let missing = caches.missing();
        async move {
            missing
                .into_iter()
                .fold(Readiness::ok(), Readiness::not_ready)
        }
    };
    admin::router(exposition, readiness, Router::new())
}
