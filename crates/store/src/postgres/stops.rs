//! Requests to stop a turn, between the processes that share a database (D3).
//!
//! `LISTEN` belongs to a connection, so this one is none of the pool's. It is
//! made anew whenever it is lost; what is asked for meanwhile is not heard.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::{self, BoxStream};
use minichat_core::TurnId;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};

/// Also in the statement of [`crate::Tx::turn_request_stop`].
const LISTEN: &str = "LISTEN minichat_turn_stop";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that vanished without a word is noticed by its silence to these.
const KEEPALIVE: Duration = Duration::from_secs(15);
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
    /// Came in while the connection was being set up.
    early: VecDeque<AsyncMessage>,
    /// Dropping it ends the connection.
    _client: Client,
}

impl StopRequests {
    /// Listens, or will as soon as the database lets it.
    pub(crate) async fn open(mut config: Config) -> Self {
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE)
            .keepalives_retries(2);
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
                Some(Ok(message)) => {
                    if let Some(turn) = turn_of(&message) {
                        return turn;
                    }
                }
                ended => {
                    let error = ended.and_then(Result::err).map(tracing::field::display);
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
        match Session::begin(&self.config).await {
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
        {
            let mut listening = pin!(client.batch_execute(LISTEN));
            loop {
                match select(listening.as_mut(), messages.next()).await {
                    Either::Left((listens, _)) => break listens?,
                    Either::Right((Some(message), _)) => early.push_back(message?),
                    // The client's own answer says why.
                    Either::Right((None, _)) => break listening.as_mut().await?,
                }
            }
        }
        Ok(Self {
            messages,
            early,
            _client: client,
        })
    }

    async fn next(&mut self) -> Option<Result<AsyncMessage, Error>> {
        match self.early.pop_front() {
            Some(message) => Some(Ok(message)),
            None => self.messages.next().await,
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
