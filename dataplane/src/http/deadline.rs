//! The time limit of a request until its response head (API-26). It does not
//! apply to the body, such as an open stream.

use std::future::Future;
use std::time::Duration;

use axum::response::Response;
use minichat_core::ErrorCode;

use crate::problem::Problem;

/// The response head of `work`, or 504 `request_timeout` after `limit`.
pub(super) async fn within(
    limit: Duration,
    work: impl Future<Output = Result<Response, Problem>>,
) -> Result<Response, Problem> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Problem::new(
            ErrorCode::RequestTimeout,
            "The request took too long and was given up.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn answer_after(delay: Duration) -> Result<Response, Problem> {
        tokio::time::sleep(delay).await;
        Ok("done".into_response())
    }

    /// API-26
    #[tokio::test(start_paused = true)]
    async fn a_late_head_is_a_504_and_a_timely_one_passes() {
        let late = within(LIMIT, answer_after(LIMIT + Duration::from_secs(1))).await;
        assert_eq!(late.unwrap_err().code, ErrorCode::RequestTimeout);
        let timely = within(LIMIT, answer_after(LIMIT / 2)).await;
        assert!(timely.is_ok());
    }
}
