//! Requests to stop a turn, between the processes that share a database (D3).
//!
//! `LISTEN` belongs to a connection, so this one is none of the pool's. It is
//! made anew whenever it is lost; what was asked for meanwhile is read from the
//! rows of the turns.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, Future, select};
use futures_util::stream::{self, BoxStream};
use minichat_core::TurnId;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

use crate::StoreError;

/// Also in the statement of [`crate::Tx::turn_request_stop`].
const LISTEN: &str = "LISTEN minichat_turn_stop";

/// Asked after [`LISTEN`], so that nothing falls between.
const PENDING_STOPS: &str = "SELECT id FROM chat_turns WHERE state = 'running' \
     AND deleted_at IS NULL AND stop_requested_at IS NOT NULL";

/// How long it may take until the server listens for us.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const MAX_BACK_OFF: Duration = Duration::from_secs(5);

/// What other processes want stopped.
pub struct StopRequests {
    config: Config,
    session: Option<Session>,
    back_off: Duration,
}

struct Session {
    messages: BoxStream<'static, Result<AsyncMessage, Error>>,
    /// Asked for before the connection was set up.
    early: VecDeque<TurnId>,
    /// Dropping it ends the connection.
    _client: Client,
}

impl StopRequests {
    /// Listens, or will as soon as the database lets it.
    pub(crate) async fn open(config: Config) -> Self {
        let mut requests = Self {
            config,
            session: None,
            back_off: FIRST_BACK_OFF,
        };
        requests.connect().await;
        requests
    }

    /// The next turn that shall be stopped. Waits out every outage.
    pub async fn next(&mut self) -> TurnId {
        loop {
            let Some(session) = &mut self.session else {
                tokio::time::sleep(self.back_off).await;
                self.back_off = (self.back_off * 2).min(MAX_BACK_OFF);
                self.connect().await;
                continue;
            };
            match session.next().await {
                Some(Ok(Some(turn))) => return turn,
                Some(Ok(None)) => {}
                ended => {
                    let error = ended.and_then(Result::err).map(StoreError::from);
                    let error = error.map(tracing::field::display);
                    tracing::warn!(
                        error,
                        "requests to stop turns are not heard: the connection was lost"
                    );
                    self.session = None;
                }
            }
        }
    }

    async fn connect(&mut self) {
        let begun = tokio::time::timeout(PATIENCE, Session::begin(&self.config)).await;
        let begun = begun.map_or(Err(StoreError::Deadline), |begun| begun.map_err(Into::into));
        match begun {
            Ok(session) => {
                self.session = Some(session);
                self.back_off = FIRST_BACK_OFF;
            }
            Err(error) => {
                tracing::warn!(%error, "requests to stop turns are not heard: no connection");
            }
        }
    }
}

impl Session {
    async fn begin(config: &Config) -> Result<Self, Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        // The connection moves only while somebody polls it for messages.
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx)).boxed();
        let mut early = VecDeque::new();
        answered(client.batch_execute(LISTEN), &mut messages, &mut early).await?;
        let rows = answered(
            client.simple_query(PENDING_STOPS),
            &mut messages,
            &mut early,
        )
        .await?;
        let pending = rows.iter().filter_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok().map(TurnId),
            _ => None,
        });
        early.extend(pending);
        Ok(Self {
            messages,
            early,
            _client: client,
        })
    }

    /// A message, and the turn it names.
    async fn next(&mut self) -> Option<Result<Option<TurnId>, Error>> {
        match self.early.pop_front() {
            Some(turn) => Some(Ok(Some(turn))),
            None => Some(self.messages.next().await?.map(|message| turn_of(&message))),
        }
    }
}

/// Waits for the answer to a client, whose messages move meanwhile.
async fn answered<T>(
    answer: impl Future<Output = Result<T, Error>>,
    messages: &mut BoxStream<'static, Result<AsyncMessage, Error>>,
    early: &mut VecDeque<TurnId>,
) -> Result<T, Error> {
    let mut answer = pin!(answer);
    loop {
        match select(answer.as_mut(), messages.next()).await {
            Either::Left((answer, _)) => return answer,
            Either::Right((Some(message), _)) => early.extend(turn_of(&message?)),
            // The client's own answer says why.
            Either::Right((None, _)) => return answer.as_mut().await,
        }
    }
}

fn turn_of(message: &AsyncMessage) -> Option<TurnId> {
    match message {
        AsyncMessage::Notification(notification) => {
            let id = notification.payload().parse().ok().map(TurnId);
            if id.is_none() {
                tracing::warn!("a request to stop a turn names none");
            }
            id
        }
        _ => None,
    }
}
