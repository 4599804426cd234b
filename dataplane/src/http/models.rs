//! The models of the tenant's catalog (API-110).

use axum::Json;
use axum::response::{IntoResponse, Response};
use minichat_config::Model;
use minichat_core::ErrorCode;
use minichat_core::quota::Tier;
use schemars::JsonSchema;
use serde::Serialize;

use super::path::{ModelPath, Params};
use crate::caller::Caller;
use crate::problem::Problem;

/// The part of a catalog entry that clients may see.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Model")]
pub(super) struct ModelView<'a> {
    model_id: &'a str,
    display_name: &'a str,
    tier: Tier,
    multiplier_display: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    multimodal_capabilities: &'a [String],
    context_window: u32,
}

impl<'a> From<&'a Model> for ModelView<'a> {
    fn from(model: &'a Model) -> Self {
        Self {
            model_id: &model.id,
            display_name: &model.display_name,
            tier: model.tier,
            multiplier_display: &model.multiplier_display,
            description: &model.description,
            multimodal_capabilities: &model.multimodal_capabilities,
            context_window: model.context_window,
        }
    }
}

/// The enabled models, in catalog order.
#[derive(Serialize, JsonSchema)]
pub(super) struct ModelList<'a> {
    items: Vec<ModelView<'a>>,
}

/// `GET /models`: the enabled models, in catalog order.
pub(super) async fn list(caller: Caller) -> Response {
    let items = caller.tenant.config.models_enabled().map(ModelView::from);
    Json(ModelList {
        items: items.collect(),
    })
    .into_response()
}

/// `GET /models/{model_id}`. A disabled model is not found, just like an
/// unknown one.
pub(super) async fn show(
    caller: Caller,
    Params(path): Params<ModelPath>,
) -> Result<Response, Problem> {
    let model = caller
        .tenant
        .config
        .model(&path.model_id)
        .filter(|model| model.enabled)
        .ok_or_else(|| Problem::new(ErrorCode::ModelNotFound, "There is no such model."))?;
    Ok(Json(ModelView::from(model)).into_response())
}
