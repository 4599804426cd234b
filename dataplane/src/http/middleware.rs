//! The steps before and after every handler, in the order of API-20. They are
//! one function instead of a stack of layers, so that the order can be read and
//! a request costs one future.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::Route;
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use minichat_core::ErrorCode;
use minichat_telemetry::traces::{TRACEPARENT, http_span};
use minichat_telemetry::{HalfClose, PeerAddr, TraceContext, Tracer, check_host};
use tower::layer::layer_fn;
use tower::{ServiceExt, service_fn};
use tracing::{Instrument, Span};

use super::auth::{Authenticator, Identity};
use super::cors::Cors;
use super::operation::Operation;
use super::rate_limit::{BucketKey, InFlight, RateLimitDecision, RateLimiter};
use super::request_id::{HttpRequestId, X_REQUEST_ID};
use super::{deadline, error, panic};
use crate::app::App;
use crate::caller::Caller;
use crate::config_source::NotServed;
use crate::problem::Problem;
use crate::turn::RequestContext;

/// The caller of a request that the middleware accepts, and the ids of the
/// request.
#[derive(Clone)]
pub(super) struct Authorized {
    pub(super) caller: Caller,
    pub(super) http_request_id: HttpRequestId,
    pub(super) trace: TraceContext,
    half_close: HalfClose,
}

impl Authorized {
    /// The ids of the request for logs, traces and the provider.
    pub(super) fn context(&self) -> RequestContext {
        RequestContext {
            http_request_id: self.http_request_id.as_str().into(),
            trace: self.trace,
            half_close: self.half_close.clone(),
        }
    }
}

/// The paths of the routes, as the router knows them.
#[derive(Default)]
pub(super) struct Paths {
    operations: Vec<OperationsOfPath>,
    /// The operation that takes files.
    pub(super) uploads: Option<(String, Method)>,
    /// Paths that need no identity (API-27).
    pub(super) open: Vec<String>,
}

struct OperationsOfPath {
    template: String,
    known: Vec<KnownOperation>,
}

struct KnownOperation {
    method: Method,
    /// What it is called in logs.
    name: &'static str,
    /// A scope that the caller needs besides that of the method.
    scope: Option<&'static str>,
}

impl Paths {
    pub(super) fn add(&mut self, template: String, operation: &Operation) {
        let id = operation.id;
        let operation = KnownOperation {
            method: operation.method.clone(),
            name: id.rsplit('.').next().unwrap_or(id),
            scope: operation.scope,
        };
        let mut known = self.operations.iter_mut();
        if let Some(path) = known.find(|it| it.template == template) {
            path.known.push(operation);
            return;
        }
        let known = vec![operation];
        self.operations.push(OperationsOfPath { template, known });
    }

    /// The place of the request's path, and its operation.
    fn find(&self, request: &Request) -> Option<(usize, Option<&KnownOperation>)> {
        let path = request.extensions().get::<MatchedPath>()?;
        let mut operations = self.operations.iter();
        let number = operations.position(|it| it.template == path.as_str())?;
        let mut known = self.operations[number].known.iter();
        let operation = known.find(|it| it.method == request.method());
        Some((number, operation))
    }
}

/// Wraps the routes and fallbacks of `router` in the middleware.
pub(super) fn around(router: Router, app: Arc<App>, tracer: Tracer, paths: Paths) -> Router {
    let limits = app.config.server.rate_limit;
    let middleware = Arc::new(Middleware {
        authenticator: Authenticator::new(
            &app.config.auth,
            app.provider.clone(),
            app.config.provider_http.allow_http,
        ),
        rate_limiter: RateLimiter::new(limits.per_second, limits.burst),
        in_flight: InFlight::new(limits.in_flight),
        cors: app.config.server.cors.as_ref().map(Cors::new),
        paths,
        tracer,
        app,
    });
    router.layer(layer_fn(move |route: Route| {
        let middleware = Arc::clone(&middleware);
        service_fn(move |request| serve(Arc::clone(&middleware), route.clone(), request))
    }))
}

struct Middleware {
    app: Arc<App>,
    authenticator: Authenticator,
    rate_limiter: RateLimiter,
    in_flight: InFlight,
    cors: Option<Cors>,
    paths: Paths,
    tracer: Tracer,
}

async fn serve(
    middleware: Arc<Middleware>,
    route: Route,
    request: Request,
) -> Result<Response, Infallible> {
    let id = HttpRequestId::of(request.headers());
    let traceparent = request.headers().get(TRACEPARENT);
    let trace = middleware
        .tracer
        .begin(traceparent.and_then(|value| value.to_str().ok()));
    let uri = request.uri().clone();
    let span = http_span(trace, id.as_str());
    let origin = request.headers().get(ORIGIN).cloned();
    let mut decision = None;

    let preflight = middleware
        .cors
        .as_ref()
        .and_then(|cors| cors.preflight(&request));
    let response = if let Err(error) = check_host(request.version(), request.headers()) {
        Problem::invalid_field("Host", error.to_string()).into_response()
    } else if let Some(preflight) = preflight {
        preflight
    } else {
        let deadline = middleware.deadline(&request);
        let work = middleware.authorize_and_handle(route, request, &id, trace, &mut decision);
        let work = panic::caught(deadline::within(deadline, work));
        let answer = work.instrument(span).await;
        answer.unwrap_or_else(Problem::into_response)
    };
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        middleware.app.probe.doubt();
    }
    let mut response = error::render(response, uri.path(), trace);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.into_header());
    if let Some(decision) = decision {
        decision.write_headers(headers);
    }
    if let Some(cors) = &middleware.cors {
        cors.write_headers(origin.as_ref(), headers);
    }
    Ok(response)
}

impl Middleware {
    /// Checks limits, identity, licence and scope, then calls the route
    /// (API-20). The rate limit comes after the identity, because each caller
    /// has its own (D20).
    async fn authorize_and_handle<'a>(
        &'a self,
        route: Route,
        mut request: Request,
        id: &HttpRequestId,
        trace: TraceContext,
        decision: &mut Option<RateLimitDecision<'a>>,
    ) -> Result<Response, Problem> {
        let _in_flight = self.in_flight.enter()?;
        if self.is_open(&request) {
            return handle(route, request).await;
        }
        let peer = request
            .extensions()
            .get::<PeerAddr>()
            .map(|PeerAddr(address)| address.ip());
        let identity = self.identify(request.headers(), peer).await?;
        let path = self.paths.find(&request);
        if let Some((_, Some(operation))) = path {
            Span::current().record("step", operation.name);
        }
        *decision = self.rate_limiter.take(BucketKey {
            tenant_id: identity.tenant_id,
            user_id: identity.user_id,
            route: self.route_number(path.map(|(number, _)| number), request.method()),
        });
        decision.as_ref().map_or(Ok(()), RateLimitDecision::check)?;
        let caller = self.licensed(identity)?;
        check_scope(&caller, request.method())?;
        let operation = path.and_then(|(_, operation)| operation);
        check_named_scope(&caller, operation.and_then(|it| it.scope))?;
        // A request that did not come through a connection has none.
        let half_close = request.extensions_mut().remove().unwrap_or_default();
        request.extensions_mut().insert(Authorized {
            caller,
            http_request_id: id.clone(),
            trace,
            half_close,
        });
        handle(route, request).await
    }

    /// Until when the answer must begin. A file may take longer; the upload ends by its own
    /// limits (API-26).
    fn deadline(&self, request: &Request) -> Duration {
        let path = request.extensions().get::<MatchedPath>();
        let is_upload = self
            .paths
            .uploads
            .as_ref()
            .is_some_and(|(template, method)| {
                request.method() == method && path.is_some_and(|path| path.as_str() == template)
            });
        if is_upload {
            return Duration::MAX;
        }
        self.app.config.server.request_deadline
    }

    fn is_open(&self, request: &Request) -> bool {
        let path = request.extensions().get::<MatchedPath>();
        path.is_some_and(|path| self.paths.open.iter().any(|open| open == path.as_str()))
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Identity, Problem> {
        let now = self.app.clock.now();
        let identity = self
            .authenticator
            .identify(headers, peer, &self.app.tenants, now)
            .await?;
        let span = Span::current();
        span.record("tenant_id", tracing::field::display(identity.tenant_id));
        span.record("user_id", tracing::field::display(identity.user_id));
        span.record("requester_type", identity.requester_type.as_str());
        Ok(identity)
    }

    /// One number per route template and method. All unknown paths share one,
    /// and so do unusual methods, so that a caller cannot create new buckets.
    fn route_number(&self, path: Option<usize>, method: &Method) -> u16 {
        let path = path.unwrap_or(self.paths.operations.len());
        let method = match *method {
            Method::GET | Method::HEAD => 0,
            Method::POST => 1,
            Method::PUT => 2,
            Method::PATCH => 3,
            Method::DELETE => 4,
            _ => 5,
        };
        u16::try_from(path * 6 + method).unwrap_or(u16::MAX)
    }

    /// The caller with its tenant's configuration pinned, or 403. The answer
    /// does not say which reason applies (API-12, PLAT-135). 503 for a tenant
    /// that waits for the database.
    fn licensed(&self, identity: Identity) -> Result<Caller, Problem> {
        let tenant = match self.app.tenants.find(identity.tenant_id) {
            Ok(tenant) if !tenant.config.suspended && tenant.config.features.ai_chat => tenant,
            Err(NotServed::Pending) => return Err(Problem::not_served_yet()),
            Ok(_) | Err(NotServed::Unknown) => {
                return Err(Problem::new(
                    ErrorCode::FeatureNotLicensed,
                    "Chat is not available to this tenant.",
                ));
            }
        };
        Ok(Caller {
            tenant_id: identity.tenant_id,
            user_id: identity.user_id,
            requester_type: identity.requester_type,
            scopes: identity.scopes,
            tenant,
        })
    }
}

async fn handle(route: Route, request: Request) -> Result<Response, Problem> {
    match route.oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// API-13: GET operations read and all others write, so the method decides,
/// before any lookup.
fn check_scope(caller: &Caller, method: &Method) -> Result<(), Problem> {
    let (granted, scope) = if matches!(*method, Method::GET | Method::HEAD) {
        (caller.scopes.read, "ai:mini_chat:read")
    } else {
        (caller.scopes.write, "ai:mini_chat:write")
    };
    if granted {
        return Ok(());
    }
    Err(Problem::new(
        ErrorCode::InsufficientPermissions,
        format!("This operation needs the scope {scope}."),
    ))
}

/// API-113
fn check_named_scope(caller: &Caller, scope: Option<&str>) -> Result<(), Problem> {
    match scope {
        Some(scope) if !caller.scopes.has_named(scope) => Err(Problem::new(
            ErrorCode::InsufficientPermissions,
            format!("This operation needs the scope {scope}, by its name."),
        )),
        _ => Ok(()),
    }
}

impl<S: Sync> FromRequestParts<S> for Authorized {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Without the middleware the caller is unknown, so the request is
        // refused (PLAT-139).
        parts.extensions.remove::<Self>().ok_or_else(|| {
            tracing::error!("a handler was called without the middleware");
            Problem::internal()
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let authorized = Authorized::from_request_parts(parts, state).await?;
        Ok(authorized.caller)
    }
}
