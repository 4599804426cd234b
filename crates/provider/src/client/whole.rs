//! Calls whose answer is one document instead of a stream (PLAT-120). Each is sent
//! once; if a kept connection turns out to be closed, a new one is tried.

use bytes::Bytes;
use minichat_core::turn::Usage;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Exchange};
use super::origin::Origin;
use super::pool::Place;
use super::{ProviderClient, head};
use crate::adapter::{self, Translator};
use crate::event::{DeltaKind, ProviderEvent, Terminal};
use crate::failure::{Failure, FailureKind, TimeoutStage};
use crate::mask::Mask;
use crate::request::ProviderCall;

/// The answer to a call without a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WholeAnswer {
    /// The text, without reasoning. It contains nothing that a database cannot store.
    pub text: String,
    /// `None` if the provider reported none.
    pub usage: Option<Usage>,
}

impl ProviderClient {
    /// Sends `call`, which asks for no stream, and reads the answer, which has at most
    /// `max_answer_bytes` of text. It ends at `expires_at`, or with the provider's
    /// limits of a connection and of the whole call. Dropping the future closes the
    /// connection at once.
    pub async fn complete(
        &self,
        call: &ProviderCall<'_>,
        expires_at: Instant,
    ) -> Result<WholeAnswer, Failure> {
        let expires_at = expires_at.min(Instant::now() + call.provider.timeouts.total);
        timeout_at(expires_at, self.attempt_whole(call))
            .await
            .unwrap_or_else(|_| Err(Failure::timed_out(TimeoutStage::Total, expires_at)))
    }

    async fn attempt_whole(&self, call: &ProviderCall<'_>) -> Result<WholeAnswer, Failure> {
        let body = adapter::body(call.provider, &call.request)
            .map_err(|error| Failure::misconfigured(&error))?;
        let place = Place::here(Origin::of(call.provider));
        if let Some(kept) = self.inner.pool.take(&place) {
            match self.exchange_whole(kept, call, body.clone()).await {
                Err(failure) if failure.kind == FailureKind::Broken => {}
                answer => return answer,
            }
        }
        let fresh = self.establish(place, call).await?;
        self.exchange_whole(fresh, call, body).await
    }

    async fn exchange_whole(
        &self,
        mut connection: Connection,
        call: &ProviderCall<'_>,
        body: Bytes,
    ) -> Result<WholeAnswer, Failure> {
        let request = head::request(call, body)?;
        let response = connection
            .exchange(request)
            .await
            .map_err(|error| Failure::broken(&error))?;
        let (head, body) = response.into_parts();
        let mut exchange = Exchange::new(connection, body);
        // JSON may write one byte as six.
        let limit = self.inner.sizes.answer.saturating_mul(6);
        let mut bytes = Vec::new();
        if !exchange.read_start(limit, &mut bytes).await {
            return Err(Failure::broken(&"the answer broke off"));
        }
        self.inner.pool.put_after_drain(exchange, usize::MAX);
        let (kind, status) = (call.provider.kind, head.status);
        let mask = Mask::new(call.provider, call.credential);
        if !status.is_success() {
            return Err(Failure::of_status(status.as_u16(), &bytes, kind, &mask));
        }
        let mut translator = Translator::bounded(kind, mask, self.inner.sizes.answer);
        translator.feed_document(&bytes);
        if let Some(answer) = read(&mut translator) {
            return answer;
        }
        translator.end_of_body();
        read(&mut translator).unwrap_or_else(|| Err(Failure::broken(&"no answer")))
    }
}

/// What the translator gives, if it gives an end.
fn read(translator: &mut Translator) -> Option<Result<WholeAnswer, Failure>> {
    let mut text = String::new();
    while let Some(event) = translator.take() {
        match event {
            ProviderEvent::Delta {
                kind: DeltaKind::Text,
                text: piece,
            } => text.push_str(piece),
            ProviderEvent::TextWasReasoning => text.clear(),
            ProviderEvent::Delta { .. } | ProviderEvent::Tool(_) | ProviderEvent::Progress => {}
            ProviderEvent::Terminal(Terminal::Failed(failure)) => return Some(Err(failure)),
            ProviderEvent::Terminal(
                Terminal::Completed(completion) | Terminal::Incomplete { completion, .. },
            ) => {
                let usage = completion.usage;
                return Some(Ok(WholeAnswer { text, usage }));
            }
        }
    }
    None
}
