//! Connections and routing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::answer::{Answer, take_release};
use super::form::Form;
use super::pace::Pace;
use super::script::Script;
use super::short::Short;
use super::stats::{AnswerGuard, ConnectionGuard};
use super::writer::{Protocol, Request as Asked, writer};
use super::{RecordedRequest, Scenario, Shared, control, errors, files, models, reading, steps};

/// Where the control calls are.
const CONTROL: &str = "/_control/";
const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";

/// Serves `listener` until it fails.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it, small events wait for acknowledgements. If it fails, the
    // socket is already closed.
    let _ = stream.set_nodelay(true);
    let guard = ConnectionGuard::new(&shared.stats);
    let service = service_fn(|request: Request<Incoming>| {
        if request.uri().path().starts_with(CONTROL) {
            guard.forget();
        }
        answer(request, Arc::clone(&shared))
    });
    // The counters show how a connection ended.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Answer>> {
    let (head, body) = request.into_parts();
    let path = head
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    if let Some(action) = path.strip_prefix(CONTROL) {
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let (status, value) = control::answer(&shared, &head.method, action, &body);
        let mut uncounted = AnswerGuard::new(&Arc::default());
        uncounted.finish();
        return Ok(json_answer(status, &value, uncounted));
    }
    let generation = Protocol::of_path(path).filter(|_| head.method == Method::POST);
    let Some(protocol) = generation else {
        return answer_stored(&shared, &head, path, body).await;
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let guard = AnswerGuard::new(&shared.stats);
    if let Some(pace) = pace_of(&body) {
        let body = json!({"model": ""});
        let asked = asked(&body, &shared);
        let answer = Answer::paced(pace, &Short::plain(protocol, asked), guard);
        return Ok(with_type(answer, EVENTS));
    }
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    record(&shared, &head, path, &json);
    let scenario = shared.take_scenario(head.method.as_str(), path, true);
    let scenario = scenario.unwrap_or_default();
    wait_before_head(&scenario, &shared).await;
    if scenario.drop_connection {
        return Err(io::Error::other("dropped by the scenario"));
    }
    let mut response = match &scenario.body {
        Some(body) => json_answer(status(&scenario), body, guard),
        None => generate(protocol, &json, &scenario, &shared, guard),
    };
    decorate(&mut response, &scenario);
    Ok(response)
}

/// Answers a call that is no generation. The scenario is chosen before the body
/// is read.
async fn answer_stored(
    shared: &Shared,
    head: &Parts,
    path: &str,
    body: Incoming,
) -> io::Result<Response<Answer>> {
    if shared.drops_files() && files::is_upload(&head.method, path) {
        reading::drop_body(body, &shared.stats).await?;
        let guard = AnswerGuard::new(&shared.stats);
        return Ok(store(shared, &head.method, path, &Bytes::new(), guard));
    }
    let scenario = shared.take_scenario(head.method.as_str(), path, false);
    let scenario = scenario.unwrap_or_default();
    let body = reading::read(body, scenario.reading, &shared.releases).await?;
    let guard = AnswerGuard::new(&shared.stats);
    let content_type = head.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok());
    let form = content_type.and_then(|it| Form::read(it, &body));
    let recorded = match &form {
        Some(form) => form.recorded(),
        None => serde_json::from_slice(&body).unwrap_or_default(),
    };
    record(shared, head, path, &recorded);
    wait_before_head(&scenario, shared).await;
    if scenario.drop_connection {
        return Err(io::Error::other("dropped by the scenario"));
    }
    let steps = steps::raw(&scenario);
    let mut response = match (steps, &scenario.body) {
        (Some(steps), _) => {
            let answer = Answer::steps(steps, Arc::clone(&shared.releases), guard);
            let mut response = with_type(answer, JSON);
            *response.status_mut() = status(&scenario);
            response
        }
        (None, Some(value)) => json_answer(status(&scenario), value, guard),
        (None, None) => {
            let body = form.map_or(body, |form| form.file);
            store(shared, &head.method, path, &body, guard)
        }
    };
    decorate(&mut response, &scenario);
    Ok(response)
}

fn status(scenario: &Scenario) -> StatusCode {
    StatusCode::from_u16(scenario.status).unwrap_or(StatusCode::OK)
}

fn generate(
    protocol: Protocol,
    body: &Value,
    scenario: &Scenario,
    shared: &Shared,
    guard: AnswerGuard,
) -> Response<Answer> {
    let is_streamed = body["stream"] == true;
    let mime = if is_streamed { EVENTS } else { JSON };
    let asked = asked(body, shared);
    let (status, steps) = if let Some(steps) = steps::raw(scenario) {
        (StatusCode::OK, steps)
    } else if body["model"].as_str().is_none_or(str::is_empty) {
        return json_answer(StatusCode::BAD_REQUEST, &missing("model"), guard);
    } else {
        let script = Script::new(body, scenario);
        let mut writer = writer(protocol, asked, scenario);
        if is_streamed {
            let steps = steps::stream(writer.as_mut(), &script, scenario.hold_before_end);
            (StatusCode::OK, steps)
        } else {
            steps::document(writer.as_mut(), &script, scenario.hold_before_end)
        }
    };
    let answer = Answer::steps(steps, Arc::clone(&shared.releases), guard);
    let mut response = with_type(answer, mime);
    *response.status_mut() = status;
    response
}

fn missing(parameter: &str) -> Value {
    let message = format!("Missing required parameter: '{parameter}'.");
    errors::invalid_request(
        &message,
        Some(parameter),
        Some("missing_required_parameter"),
    )
}

fn store(
    shared: &Shared,
    method: &Method,
    path: &str,
    body: &Bytes,
    guard: AnswerGuard,
) -> Response<Answer> {
    let reply = shared.files().answer(method, path, body);
    match reply {
        Some(files::Reply::Json(status, value)) => return json_answer(status, &value, guard),
        Some(files::Reply::Content(bytes)) => return Response::new(Answer::whole(bytes, guard)),
        None => {}
    }
    if let Some(models) = models::answer(method, path) {
        return json_answer(StatusCode::OK, &models, guard);
    }
    let message = format!("Invalid URL ({method} {path})");
    let error = errors::invalid_request(&message, None, None);
    json_answer(StatusCode::NOT_FOUND, &error, guard)
}

/// The pace of the model. Reads nothing else of the request.
fn pace_of(body: &[u8]) -> Option<Pace> {
    #[derive(Deserialize)]
    struct Model<'a> {
        model: &'a str,
    }
    let Model { model } = serde_json::from_slice(body).ok()?;
    Pace::from_model(model)
}

/// Counts a generation.
fn asked<'r>(body: &'r Value, shared: &Shared) -> Asked<'r> {
    Asked {
        body,
        number: shared.answers.fetch_add(1, Ordering::Relaxed) + 1,
    }
}

fn record(shared: &Shared, head: &Parts, path: &str, body: &Value) {
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    shared.requests().push(RecordedRequest {
        method: head.method.to_string(),
        path: path.to_owned(),
        headers: headers.collect(),
        body: body.clone(),
    });
}

async fn wait_before_head(scenario: &Scenario, shared: &Shared) {
    if scenario.delay_before_head_ms > 0 {
        sleep(Duration::from_millis(scenario.delay_before_head_ms)).await;
    }
    if scenario.hold_before_head {
        take_release(Arc::clone(&shared.releases)).await;
    }
}

fn decorate(response: &mut Response<Answer>, scenario: &Scenario) {
    for (name, value) in &scenario.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    if scenario.close {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

fn json_answer(status: StatusCode, value: &Value, guard: AnswerGuard) -> Response<Answer> {
    let bytes = Bytes::from(value.to_string());
    let mut response = with_type(Answer::whole(bytes, guard), JSON);
    *response.status_mut() = status;
    response
}

fn with_type(answer: Answer, mime: &'static str) -> Response<Answer> {
    let mut response = Response::new(answer);
    let mime = HeaderValue::from_static(mime);
    response.headers_mut().insert(CONTENT_TYPE, mime);
    response
}
