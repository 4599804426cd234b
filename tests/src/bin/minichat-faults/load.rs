//! Users who send one message after the other and remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minichat_tests::client::Api;
use minichat_tests::sse::EventStream;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How long a user waits who was refused.
const PAUSE: Duration = Duration::from_millis(300);
/// A user who hears nothing for so long asks no more.
const PATIENCE: Duration = Duration::from_mins(1);

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    /// The stream ended with `done`.
    Done,
    /// The stream ended with `error`, or with nothing.
    Interrupted,
    /// Another status than 200.
    Status(u16),
    /// The connection was refused or cut.
    NoAnswer,
}

/// What all users were told.
#[derive(Default, Debug)]
pub(crate) struct Sent {
    pub(crate) ends: BTreeMap<End, usize>,
    /// The keys of the turns that ended with `done`.
    done: BTreeSet<String>,
    /// The longest that somebody waited for a refusal.
    pub(crate) slowest_refusal: Duration,
}

impl Sent {
    pub(crate) fn count(&self, end: End) -> usize {
        self.ends.get(&end).copied().unwrap_or_default()
    }

    /// Turns whose client saw `done` and that are not among `stored`.
    pub(crate) fn not_stored(&self, stored: &BTreeSet<String>) -> usize {
        self.done.difference(stored).count()
    }
}

/// Users that send until they are stopped.
pub(crate) struct Users {
    sent: Arc<Mutex<Sent>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Users {
    /// Starts with users and their chats.
    pub(crate) fn start(users: Vec<(Api, String)>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let sent = Arc::<Mutex<Sent>>::default();
        let mut tasks = JoinSet::new();
        for (user, chat) in users {
            tasks.spawn(send_on(user, chat, Arc::clone(&sent), stopped.clone()));
        }
        Self { sent, stop, tasks }
    }

    /// Lets everybody read the last answer.
    pub(crate) async fn stop(self) -> anyhow::Result<Sent> {
        self.stop.send_replace(true);
        self.tasks.join_all().await;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut sent))
    }
}

async fn send_on(
    user: Api,
    mut chat: String,
    sent: Arc<Mutex<Sent>>,
    stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let request = Uuid::new_v4().to_string();
        let began = Instant::now();
        let told = tokio::time::timeout(PATIENCE, send(&user, &chat, &request)).await;
        let end = told.unwrap_or(End::NoAnswer);
        {
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            *sent.ends.entry(end).or_default() += 1;
            if end == End::Done {
                sent.done.insert(request);
            } else if matches!(end, End::Status(_)) {
                sent.slowest_refusal = sent.slowest_refusal.max(began.elapsed());
            }
        }
        if end == End::Interrupted {
            // Its turn may run on until the watchdog ends it.
            chat = user.create_chat(None).await.unwrap_or(chat);
        }
        if end != End::Done {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn send(user: &Api, chat: &str, request: &str) -> End {
    let body = json!({"content": "hello", "request_id": request});
    match user.try_open(chat, &body).await {
        Ok(Ok(stream)) => read(stream).await,
        Ok(Err(status)) => End::Status(status.as_u16()),
        Err(_) => End::NoAnswer,
    }
}

async fn read(mut stream: EventStream) -> End {
    let mut is_done = false;
    while let Ok(Some(event)) = stream.next().await {
        is_done = event.name == "done";
    }
    if is_done { End::Done } else { End::Interrupted }
}
