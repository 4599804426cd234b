//! An operation: a route and its description in the OpenAPI document (API-27).
//! Both come from one value, so that neither can be missing.

use std::sync::Arc;

use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use http::Method;
use minichat_core::ErrorCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::cursor::List;
use crate::app::App;

/// Adds a type's schema to a document.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One operation of the API.
pub(super) struct Operation {
    pub(super) method: Method,
    /// Below the base path, with parameters in braces.
    pub(super) path: &'static str,
    /// The operation id that clients know (API-6).
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) handler: MethodRouter<Arc<App>>,
    /// The list that the query filters and orders.
    pub(super) list: Option<List>,
    pub(super) body: Option<SchemaOf>,
    /// Whether the body is a form with a file. Then the deadline of requests does not
    /// apply (API-26).
    pub(super) uploads: bool,
    pub(super) successes: Vec<Success>,
    /// The scope that a caller needs, unless its method decides (API-13).
    pub(super) scope: Option<&'static str>,
    refusals: Vec<ErrorCode>,
}

/// One successful response.
pub(super) struct Success {
    pub(super) status: u16,
    pub(super) means: &'static str,
    pub(super) content: Content,
}

/// The body of a successful response.
pub(super) enum Content {
    Nothing,
    Json(SchemaOf),
    /// One JSON object per line.
    JsonLines(SchemaOf),
    Events,
}

/// Codes with which any operation can be refused (API-32).
const EVERYWHERE: &[ErrorCode] = &[
    ErrorCode::Unauthenticated,
    ErrorCode::FeatureNotLicensed,
    ErrorCode::InsufficientPermissions,
    ErrorCode::TooManyRequests,
    ErrorCode::InternalError,
    ErrorCode::ServiceUnavailable,
    ErrorCode::InFlightLimit,
    ErrorCode::RequestTimeout,
];

/// Codes with which a new turn can be refused (API-64).
const TURN: &[ErrorCode] = &[
    ErrorCode::ImagesDisabled,
    ErrorCode::WebSearchDisabled,
    ErrorCode::GenerationInProgress,
    ErrorCode::UnsupportedMedia,
    ErrorCode::InputTooLong,
    ErrorCode::ContextBudgetExceeded,
    ErrorCode::QuotaExceeded,
];

/// Codes with which a file can be refused (API-101 to API-106).
const UPLOAD: &[ErrorCode] = &[
    ErrorCode::ImagesDisabled,
    ErrorCode::DocumentLimitExceeded,
    ErrorCode::StorageLimitExceeded,
    ErrorCode::CodeInterpreterUnavailable,
    ErrorCode::AttachmentNotFound,
    ErrorCode::ProviderMismatch,
    ErrorCode::FileTooLarge,
    ErrorCode::UnsupportedContentType,
    ErrorCode::UnsupportedFileType,
    ErrorCode::ProviderError,
    ErrorCode::VectorStoreTimeout,
    ErrorCode::UploadConcurrencyLimit,
    ErrorCode::ProviderTimeout,
];

const LIST: &[ErrorCode] = &[
    ErrorCode::InvalidCursor,
    ErrorCode::InvalidFilter,
    ErrorCode::InvalidOrderby,
    ErrorCode::InvalidLimit,
];

/// The parameters of paths, and the code when the named object does not exist.
const PATH_PARAMETERS: &[(&str, ErrorCode)] = &[
    ("id", ErrorCode::ChatNotFound),
    ("request_id", ErrorCode::TurnNotFound),
    ("msg_id", ErrorCode::MessageNotFound),
    ("attachment_id", ErrorCode::AttachmentNotFound),
    ("model_id", ErrorCode::ModelNotFound),
];

impl Operation {
    pub(super) fn get<T: 'static>(
        path: &'static str,
        id: &'static str,
        handler: impl Handler<T, Arc<App>>,
    ) -> Self {
        Self::new(Method::GET, path, id, routing::get(handler))
    }

    pub(super) fn post<T: 'static>(
        path: &'static str,
        id: &'static str,
        handler: impl Handler<T, Arc<App>>,
    ) -> Self {
        Self::new(Method::POST, path, id, routing::post(handler))
    }

    pub(super) fn put<T: 'static>(
        path: &'static str,
        id: &'static str,
        handler: impl Handler<T, Arc<App>>,
    ) -> Self {
        Self::new(Method::PUT, path, id, routing::put(handler))
    }

    pub(super) fn patch<T: 'static>(
        path: &'static str,
        id: &'static str,
        handler: impl Handler<T, Arc<App>>,
    ) -> Self {
        Self::new(Method::PATCH, path, id, routing::patch(handler))
    }

    pub(super) fn delete<T: 'static>(
        path: &'static str,
        id: &'static str,
        handler: impl Handler<T, Arc<App>>,
    ) -> Self {
        Self::new(Method::DELETE, path, id, routing::delete(handler))
    }

    const fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Arc<App>>,
    ) -> Self {
        Self {
            method,
            path,
            id,
            handler,
            summary: "",
            list: None,
            body: None,
            uploads: false,
            successes: Vec::new(),
            scope: None,
            refusals: Vec::new(),
        }
    }

    pub(super) fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    pub(super) fn list(mut self, list: List) -> Self {
        self.list = Some(list);
        self
    }

    /// Requires a JSON body of type `T`.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// Requires a form with a file.
    pub(super) fn uploads(mut self) -> Self {
        self.uploads = true;
        self.refused_with(UPLOAD)
    }

    /// Answers `status` with a JSON body of type `T`.
    pub(super) fn answers<T: JsonSchema>(self, status: u16, means: &'static str) -> Self {
        self.success(
            status,
            means,
            Content::Json(SchemaGenerator::subschema_for::<T>),
        )
    }

    /// Answers 200 with lines, each a JSON object of type `T`.
    pub(super) fn answers_lines<T: JsonSchema>(self, means: &'static str) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.success(200, means, Content::JsonLines(schema))
    }

    /// Needs a scope of its own besides that of its method.
    pub(super) const fn scope(mut self, scope: &'static str) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Answers 204.
    pub(super) fn answers_nothing(self, means: &'static str) -> Self {
        self.success(204, means, Content::Nothing)
    }

    /// Answers with the stream of a new turn.
    pub(super) fn streams(self) -> Self {
        self.refused_with(TURN)
            .success(200, "The events of the turn.", Content::Events)
    }

    fn success(mut self, status: u16, means: &'static str, content: Content) -> Self {
        self.successes.push(Success {
            status,
            means,
            content,
        });
        self
    }

    /// Adds codes that do not follow from path, query and body.
    pub(super) fn refused_with(mut self, codes: &[ErrorCode]) -> Self {
        self.refusals.extend(codes);
        self
    }

    /// The names of the path's parameters.
    pub(super) fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Every code with which the operation can be refused, ordered by status.
    pub(super) fn refusals(&self) -> Vec<ErrorCode> {
        let mut codes = self.refusals.clone();
        codes.extend(EVERYWHERE);
        for name in self.path_parameters() {
            let found = PATH_PARAMETERS.iter().find(|(known, _)| *known == name);
            codes.extend(found.map(|(_, code)| *code));
        }
        if self.list.is_some() {
            codes.extend(LIST);
        }
        if self.body.is_some() {
            codes.extend([
                ErrorCode::PayloadTooLarge,
                ErrorCode::UnsupportedContentType,
            ]);
        }
        if self.list.is_some() || self.body.is_some() || self.path.contains('{') {
            codes.push(ErrorCode::InvalidRequest);
        }
        codes.sort_by_key(|code| (code.http_status(), code.token()));
        codes.dedup();
        codes
    }
}
