//! Fetches small documents, such as an issuer's keys: one GET with limits of
//! bytes and time. Redirects are not followed.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode, Uri};
use minichat_config::outbound::Refusal;
use tokio::time::timeout;

use super::ProviderClient;
use super::body::RequestBody;
use super::connection::{Connection, Exchange};
use super::connector::{ChosenBy, ConnectError};
use super::origin::Origin;
use super::pool::Place;
use crate::request::StartedFlag;

/// Limits of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Maximum size of the document in bytes.
    pub bytes: usize,
    /// Time from connecting to the last byte.
    pub total: Duration,
    /// Whether plain HTTP is allowed.
    pub allow_http: bool,
    /// Who chose the address.
    pub chosen_by: ChosenBy,
}

/// Why a fetch failed. Contains nothing of the answer.
#[derive(Debug)]
pub enum FetchError {
    /// The address is not a URL that can be fetched.
    Address,
    /// The address may not be called (D48).
    Refused(Refusal),
    /// There was no answer, or it broke off.
    Broken(String),
    /// It took too long.
    TimedOut,
    /// The answer was not 200.
    Status(StatusCode),
    /// The answer is longer than allowed.
    TooLong,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => {
                f.write_str("the address is no https:// URL, nor an allowed http:// one")
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Broken(cause) => write!(f, "the connection failed: {cause}"),
            Self::TimedOut => f.write_str("the answer took too long"),
            Self::Status(status) => write!(f, "the answer was {status}"),
            Self::TooLong => f.write_str("the answer is too long"),
        }
    }
}

impl std::error::Error for FetchError {}

impl ProviderClient {
    /// Gets the document at `url`, over a connection of its own.
    pub async fn fetch(&self, url: &str, limits: FetchLimits) -> Result<Vec<u8>, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Address)?;
        let origin = Origin::of_uri(&uri)
            .filter(|origin| origin.is_tls || limits.allow_http)
            .ok_or(FetchError::Address)?;
        let host = uri
            .authority()
            .map_or_else(String::new, ToString::to_string);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .body(RequestBody::whole(Bytes::new(), StartedFlag::default()))
            .map_err(|_| FetchError::Address)?;
        timeout(limits.total, self.get(origin, request, limits))
            .await
            .unwrap_or(Err(FetchError::TimedOut))
    }

    async fn get(
        &self,
        origin: Origin,
        request: Request<RequestBody>,
        limits: FetchLimits,
    ) -> Result<Vec<u8>, FetchError> {
        let place = Place::here(origin);
        let connect = Connection::establish(place, limits.chosen_by, &self.inner.connector);
        let mut connection = connect.await.map_err(|error| match error {
            ConnectError::Refused(refusal) => FetchError::Refused(refusal),
            other => FetchError::Broken(other.to_string()),
        })?;
        let response = connection
            .exchange(request)
            .await
            .map_err(|error| FetchError::Broken(error.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = response.into_body();
        let mut exchange = Exchange::new(connection, body);
        let mut document = Vec::new();
        while let Some(bytes) = poll_fn(|cx| exchange.poll_bytes(cx)).await {
            let bytes = bytes.map_err(|error| FetchError::Broken(error.to_string()))?;
            if document.len() + bytes.len() > limits.bytes {
                return Err(FetchError::TooLong);
            }
            document.extend_from_slice(&bytes);
        }
        Ok(document)
    }
}
