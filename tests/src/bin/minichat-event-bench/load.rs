//! Users that send turns at a fixed rate, one user for each tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use minichat_tests::client::Api;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The load of a run.
pub(crate) struct Load {
    pub(crate) tenants: Vec<Uuid>,
    /// The processes that serve.
    pub(crate) apis: Vec<Api>,
    pub(crate) turns: usize,
    /// Turns in a second, over all tenants.
    pub(crate) rate: usize,
    /// Turns that were answered so far.
    pub(crate) answered: Arc<AtomicUsize>,
}

struct User {
    apis: Vec<Api>,
    /// Which process is tried first.
    place: usize,
    chat: Option<String>,
}

impl Load {
    /// Sends all turns.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let began = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let interval = Duration::from_secs(1) / u32::try_from(self.rate)?;
        let mut users = JoinSet::new();
        for (place, tenant) in self.tenants.iter().enumerate() {
            let user = Uuid::new_v4();
            let apis: Result<_, _> = self
                .apis
                .iter()
                .map(|api| api.acting_as(*tenant, user))
                .collect();
            let mut user = User {
                apis: apis?,
                place,
                chat: None,
            };
            let (next, turns) = (Arc::clone(&next), self.turns);
            let answered = Arc::clone(&self.answered);
            users.spawn(async move {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= turns {
                        return;
                    }
                    let due = interval * u32::try_from(turn).unwrap_or(u32::MAX);
                    tokio::time::sleep_until(began + due).await;
                    let sent = tokio::time::timeout(PATIENCE, user.send()).await;
                    if matches!(sent, Ok(Ok(()))) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    } else {
                        user.move_on();
                    }
                }
            });
        }
        users.join_all().await;
        Ok(())
    }
}

impl User {
    async fn send(&mut self) -> anyhow::Result<()> {
        let api = &self.apis[self.place % self.apis.len()];
        let chat = match &self.chat {
            Some(chat) => chat.clone(),
            None => api.create_chat(Some("std")).await?,
        };
        let stream = api.open(&chat, &json!({"content": "Hello"})).await?;
        let events = stream.collect().await?;
        events.only("done")?;
        self.chat = Some(chat);
        Ok(())
    }

    /// After a failure: another process, and a new chat, since a turn of this one may be open.
    fn move_on(&mut self) {
        self.place += 1;
        self.chat = None;
    }
}
