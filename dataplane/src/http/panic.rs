//! A panic in a handler is answered with 500 and affects no other request
//! (API-29).

use std::future::Future;
use std::panic::AssertUnwindSafe;

use axum::response::Response;
use futures_util::FutureExt;

use crate::problem::Problem;

/// Runs `work`. A panic becomes 500 `internal_error`. Its message is not
/// logged, because it may quote a user's text.
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
