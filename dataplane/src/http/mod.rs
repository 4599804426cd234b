//! The application's HTTP API (chapter 1 of the specification): routes, who
//! may use them, and what their answers look like. What a turn does is in
//! [`crate::turn`].

mod admission;
mod auth;
mod body;
mod chats;
mod cors;
mod cursor;
mod deadline;
mod error;
mod filter;
mod list;
mod messages;
mod models;
mod order;
mod panic;
mod path;
mod pipeline;
mod quota;
mod reactions;
mod request_id;
mod stream;
mod turns;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use http::Method;
use minichat_core::ErrorCode;
use minichat_telemetry::Tracer;

use crate::app::App;
use crate::problem::Problem;

/// Every operation, below `{root_prefix}{url_prefix}/v1` (API-1, API-6).
fn operations() -> Vec<(Method, &'static str, MethodRouter<Arc<App>>)> {
    use Method as M;
    vec![
        (M::POST, "/chats", post(chats::create)),
        (M::GET, "/chats", get(chats::list)),
        (M::GET, "/chats/{id}", get(chats::show)),
        (M::PATCH, "/chats/{id}", patch(chats::update)),
        (M::DELETE, "/chats/{id}", delete(chats::delete)),
        (M::GET, "/chats/{id}/messages", get(messages::list)),
        (M::POST, "/chats/{id}/messages:stream", post(stream::send)),
        (M::GET, "/chats/{id}/turns/{request_id}", get(turns::show)),
        (
            M::PUT,
            "/chats/{id}/messages/{msg_id}/reaction",
            put(reactions::put),
        ),
        (
            M::DELETE,
            "/chats/{id}/messages/{msg_id}/reaction",
            delete(reactions::delete),
        ),
        (
            M::PATCH,
            "/chats/{id}/turns/{request_id}",
            patch(turns::edit),
        ),
        (
            M::DELETE,
            "/chats/{id}/turns/{request_id}",
            delete(turns::delete),
        ),
        (
            M::POST,
            "/chats/{id}/turns/{request_id}/retry",
            post(turns::retry),
        ),
        (
            M::POST,
            "/chats/{id}/turns/{request_id}/cancel",
            post(turns::cancel),
        ),
        (M::GET, "/models", get(models::list)),
        (M::GET, "/models/{model_id}", get(models::show)),
        (M::GET, "/quota/status", get(quota::status)),
    ]
}

/// Method and path of every operation, below the base path.
pub fn routes() -> Vec<(Method, &'static str)> {
    let routes = operations().into_iter();
    routes.map(|(method, path, _)| (method, path)).collect()
}

/// The application's service. Every request, to whatever path, passes the
/// pipeline first (API-20); `tracer` begins its trace.
pub fn router(app: Arc<App>, tracer: Tracer) -> Router {
    let base = format!("{}/v1", app.config.base_path());
    let mut router = Router::new();
    let mut templates = Vec::new();
    for (_, path, handler) in operations() {
        let template = format!("{base}{path}");
        router = router.route(&template, handler);
        if !templates.contains(&template) {
            templates.push(template);
        }
    }
    let router = router
        .fallback(async || Problem::new(ErrorCode::NotFound, "There is no such path."))
        .method_not_allowed_fallback(async || {
            Problem::new(ErrorCode::MethodNotAllowed, "This path has no such method.")
        })
        .with_state(Arc::clone(&app));
    pipeline::around(router, app, tracer, templates)
}
