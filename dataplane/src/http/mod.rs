//! The HTTP API of the application (chapter 1 of the specification): routes,
//! access control and responses. What a turn does is in [`crate::turn`].

mod attachments;
mod auth;
mod body;
mod chats;
mod cors;
mod cursor;
mod deadline;
mod docs;
mod error;
mod event_stream;
mod export;
mod filter;
mod list;
mod me;
mod messages;
mod middleware;
mod models;
pub mod openapi;
mod operation;
mod operations;
mod order;
mod panic;
mod path;
mod quota;
mod rate_limit;
mod reactions;
mod request_id;
mod select;
mod turns;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use http::Method;
use minichat_core::ErrorCode;
use minichat_telemetry::Tracer;

use self::middleware::Paths;
use crate::app::App;
use crate::problem::Problem;

/// Method and path of every operation, below the base path.
pub fn routes() -> Vec<(Method, &'static str)> {
    let operations = operations::all().into_iter();
    operations.map(|it| (it.method, it.path)).collect()
}

/// The application's service. Every request passes the middleware first,
/// whatever its path (API-20). `tracer` begins its trace.
pub fn router(app: Arc<App>, tracer: Tracer) -> Router {
    let base = format!("{}/v1", app.config.base_path());
    let mut router = Router::new();
    let mut paths = Paths::default();
    for operation in operations::all() {
        let template = format!("{base}{}", operation.path);
        paths.add(template.clone(), &operation);
        if operation.uploads {
            paths.uploads = Some((template.clone(), operation.method.clone()));
        }
        router = router.route(&template, operation.handler);
    }
    for (template, handler) in docs::routes(&app.config) {
        router = router.route(&template, handler);
        paths.open.push(template);
    }
    let router = router
        .fallback(async || Problem::new(ErrorCode::NotFound, "There is no such path."))
        .method_not_allowed_fallback(async || {
            Problem::new(ErrorCode::MethodNotAllowed, "This path has no such method.")
        })
        .with_state(Arc::clone(&app));
    middleware::around(router, app, tracer, paths)
}
