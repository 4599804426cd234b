//! Users who send one message after the other and record the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minichat_tests::client::Api;
use minichat_tests::sse::EventStream;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How long a user waits after a refusal.
const PAUSE: Duration = Duration::from_millis(300);
/// A user without an answer for this long stops.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a user behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Reads long answers and sends the next message at once.
    Steady,
    /// Reads short answers with pauses. Such a user is rarely in the middle of
    /// an answer, and so meets the faults that the others wait out.
    Brisk,
}

impl Pace {
    /// The model for such answers.
    pub(crate) const fn model(self) -> &'static str {
        match self {
            Self::Steady => "std",
            Self::Brisk => "prem",
        }
    }
}

/// The result of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    /// A chat was created.
    Created,
    /// The stream ended with `done`.
    Done,
    /// The stream ended with `error`, or without a terminal event.
    Interrupted,
    /// It was refused with this status.
    Status(u16),
    /// The connection was refused or cut.
    NoAnswer,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) began: Instant,
    /// When the response head arrived.
    pub(crate) answered: Instant,
    pub(crate) end: End,
}

impl Sent {
    pub(crate) const fn is_served(self) -> bool {
        matches!(self.end, End::Created | End::Done | End::Interrupted)
    }
}

/// The answers to all users.
#[derive(Default, Debug)]
pub(crate) struct Log {
    pub(crate) sent: Vec<Sent>,
    /// The answers that ended with `done`, by the request id of their turn.
    pub(crate) done: BTreeMap<String, String>,
}

impl Log {
    pub(crate) fn count(&self, end: End) -> usize {
        self.sent.iter().filter(|sent| sent.end == end).count()
    }
}

/// Users that send messages until they are stopped.
pub(crate) struct Users {
    log: SharedLog,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, began: Instant, answered: Instant, end: End) {
        self.lock().sent.push(Sent {
            began,
            answered,
            end,
        });
    }
}

impl Users {
    /// Starts users, each with a chat.
    pub(crate) fn start(users: Vec<(Api, String, Pace)>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let log = SharedLog::default();
        let mut tasks = JoinSet::new();
        for (api, chat, pace) in users {
            let user = User {
                api,
                pace,
                log: log.clone(),
            };
            tasks.spawn(user.send_on(chat, stopped.clone()));
        }
        Self { log, stop, tasks }
    }

    /// Waits until all users have read their last answer.
    pub(crate) async fn stop(self) -> Log {
        self.stop.send_replace(true);
        self.tasks.join_all().await;
        std::mem::take(&mut self.log.lock())
    }
}

struct User {
    api: Api,
    pace: Pace,
    log: SharedLog,
}

impl User {
    async fn send_on(self, mut chat: String, stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            match self.send(&chat).await {
                End::Done | End::Created if self.pace == Pace::Steady => {}
                End::Done | End::Created | End::Status(_) => tokio::time::sleep(PAUSE).await,
                // A turn that was not ended blocks its chat until a watchdog
                // ends it (TURN-62).
                End::Interrupted | End::NoAnswer => match self.new_chat(&stopped).await {
                    Some(new) => chat = new,
                    None => return,
                },
            }
        }
    }

    async fn send(&self, chat: &str) -> End {
        let request = Uuid::new_v4().to_string();
        let body = json!({"content": "hello", "request_id": request});
        let began = Instant::now();
        let opened = tokio::time::timeout(PATIENCE, self.api.try_open(chat, &body)).await;
        let answered = Instant::now();
        let end = match opened {
            Ok(Ok(Ok(stream))) => match tokio::time::timeout(PATIENCE, read(stream)).await {
                Ok(Some(answer)) => {
                    self.log.lock().done.insert(request, answer);
                    End::Done
                }
                Ok(None) | Err(_) => End::Interrupted,
            },
            Ok(Ok(Err(status))) => End::Status(status.as_u16()),
            Ok(Err(_)) | Err(_) => End::NoAnswer,
        };
        self.log.add(began, answered, end);
        end
    }

    /// A new chat, as soon as one can be created; `None` when it is time to
    /// stop.
    async fn new_chat(&self, stopped: &watch::Receiver<bool>) -> Option<String> {
        while !*stopped.borrow() {
            let began = Instant::now();
            let chat = json!({ "model": self.pace.model() });
            let created = self.api.post("/chats", &chat);
            let (end, chat) = match tokio::time::timeout(PATIENCE, created).await {
                Ok(Ok(answer)) if answer.status == 201 => {
                    let chat = answer.json().unwrap_or_default()["id"].clone();
                    (End::Created, chat.as_str().map(str::to_owned))
                }
                Ok(Ok(answer)) => (End::Status(answer.status.as_u16()), None),
                Ok(Err(_)) | Err(_) => (End::NoAnswer, None),
            };
            self.log.add(began, Instant::now(), end);
            if chat.is_some() {
                return chat;
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}

/// The answer, if it ends with `done`.
async fn read(mut stream: EventStream) -> Option<String> {
    let mut answer = String::new();
    let mut is_done = false;
    while let Ok(Some(event)) = stream.next().await {
        if event.name == "delta" {
            answer.push_str(event.text("content"));
        }
        is_done = event.name == "done";
    }
    is_done.then_some(answer)
}
