//! The caller's quota (API-112, API-17).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use minichat_core::quota;

use crate::app::App;
use crate::caller::Caller;
use crate::problem::Problem;

/// `GET /quota/status`
pub(super) async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let now = app.clock.now();
    let scope = minichat_store::QuotaDay {
        tenant_id: caller.tenant_id,
        user_id: caller.user_id,
        day: now.date(),
    };
    let cells = app
        .store
        .read(move |tx| Box::pin(async move { tx.quota_cells(scope).await }))
        .await?;
    let limits = caller.tenant.config.limits_for(caller.user_id);
    let status = quota::status(
        &limits.limits(),
        &crate::quota::cells(&cells),
        limits.warning_threshold_pct,
        now,
    );
    Ok(Json(status).into_response())
}
