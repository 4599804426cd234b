//! The closed set of codes in problem documents (API-32).

/// A code of a problem document, with its HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorCode {
    InvalidRequest,
    InvalidAttachment,
    TooManyImages,
    ImagesDisabled,
    WebSearchDisabled,
    InvalidReactionTarget,
    InvalidTurnState,
    Unauthenticated,
    FeatureNotLicensed,
    InsufficientPermissions,
    ChatNotFound,
    TurnNotFound,
    MessageNotFound,
    ModelNotFound,
    NotFound,
    MethodNotAllowed,
    GenerationInProgress,
    NotLatestTurn,
    RequestIdConflict,
    PayloadTooLarge,
    UnsupportedMedia,
    UnsupportedContentType,
    InvalidCursor,
    InvalidFilter,
    InvalidOrderby,
    InvalidLimit,
    InputTooLong,
    ContextBudgetExceeded,
    QuotaExceeded,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    InFlightLimit,
    RequestTimeout,
}

impl ErrorCode {
    /// Every code, for tables and tests that must cover all of them.
    pub const ALL: [Self; 34] = [
        Self::InvalidRequest,
        Self::InvalidAttachment,
        Self::TooManyImages,
        Self::ImagesDisabled,
        Self::WebSearchDisabled,
        Self::InvalidReactionTarget,
        Self::InvalidTurnState,
        Self::Unauthenticated,
        Self::FeatureNotLicensed,
        Self::InsufficientPermissions,
        Self::ChatNotFound,
        Self::TurnNotFound,
        Self::MessageNotFound,
        Self::ModelNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::GenerationInProgress,
        Self::NotLatestTurn,
        Self::RequestIdConflict,
        Self::PayloadTooLarge,
        Self::UnsupportedMedia,
        Self::UnsupportedContentType,
        Self::InvalidCursor,
        Self::InvalidFilter,
        Self::InvalidOrderby,
        Self::InvalidLimit,
        Self::InputTooLong,
        Self::ContextBudgetExceeded,
        Self::QuotaExceeded,
        Self::TooManyRequests,
        Self::InternalError,
        Self::ServiceUnavailable,
        Self::InFlightLimit,
        Self::RequestTimeout,
    ];

    /// The token on the wire (`code` and `title`) and the HTTP status.
    pub const fn parts(self) -> (&'static str, u16) {
        match self {
            Self::InvalidRequest => ("invalid_request", 400),
            Self::InvalidAttachment => ("invalid_attachment", 400),
            Self::TooManyImages => ("too_many_images", 400),
            Self::ImagesDisabled => ("images_disabled", 400),
            Self::WebSearchDisabled => ("web_search_disabled", 400),
            Self::InvalidReactionTarget => ("invalid_reaction_target", 400),
            Self::InvalidTurnState => ("invalid_turn_state", 400),
            Self::Unauthenticated => ("unauthenticated", 401),
            Self::FeatureNotLicensed => ("feature_not_licensed", 403),
            Self::InsufficientPermissions => ("insufficient_permissions", 403),
            Self::ChatNotFound => ("chat_not_found", 404),
            Self::TurnNotFound => ("turn_not_found", 404),
            Self::MessageNotFound => ("message_not_found", 404),
            Self::ModelNotFound => ("model_not_found", 404),
            Self::NotFound => ("not_found", 404),
            Self::MethodNotAllowed => ("method_not_allowed", 405),
            Self::GenerationInProgress => ("generation_in_progress", 409),
            Self::NotLatestTurn => ("not_latest_turn", 409),
            Self::RequestIdConflict => ("request_id_conflict", 409),
            Self::PayloadTooLarge => ("payload_too_large", 413),
            Self::UnsupportedMedia => ("unsupported_media", 415),
            Self::UnsupportedContentType => ("unsupported_content_type", 415),
            Self::InvalidCursor => ("invalid_cursor", 422),
            Self::InvalidFilter => ("invalid_filter", 422),
            Self::InvalidOrderby => ("invalid_orderby", 422),
            Self::InvalidLimit => ("invalid_limit", 422),
            Self::InputTooLong => ("input_too_long", 422),
            Self::ContextBudgetExceeded => ("context_budget_exceeded", 422),
            Self::QuotaExceeded => ("quota_exceeded", 429),
            Self::TooManyRequests => ("too_many_requests", 429),
            Self::InternalError => ("internal_error", 500),
            Self::ServiceUnavailable => ("service_unavailable", 503),
            Self::InFlightLimit => ("in_flight_limit", 503),
            Self::RequestTimeout => ("request_timeout", 504),
        }
    }

    pub const fn token(self) -> &'static str {
        self.parts().0
    }

    pub const fn http_status(self) -> u16 {
        self.parts().1
    }
}
