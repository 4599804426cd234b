//! A panic in a handler is that request's 500 and nobody else's (API-29).

use std::future::Future;
use std::panic::AssertUnwindSafe;

use axum::response::Response;
use futures_util::FutureExt;

use crate::problem::Problem;

/// Runs `work`; a panic becomes 500 `internal_error`. What the panic says is
/// not repeated in the log line, because it can quote a user's text.
pub(super) async fn caught(
    work: impl Future<Output = Result<Response, Problem>>,
) -> Result<Response, Problem> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(answer) => answer,
        Err(_payload) => {
            tracing::error!("a request handler panicked");
            Err(Problem::internal())
        }
    }
}

#[cfg(test)]
mod tests {
    use minichat_core::ErrorCode;

    use super::*;

    /// API-29
    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let problem = caught(async { panic!("boom") }).await.unwrap_err();
        assert_eq!(problem.code, ErrorCode::InternalError);
        assert!(!problem.detail.contains("boom"));
    }
}
