//! Whether readiness says what a send would get.

use std::time::Duration;

use minichat_tests::client::Api;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longer than what readiness has found out is told again.
const APART: Duration = Duration::from_millis(1_200);
const PATIENCE: Duration = Duration::from_secs(40);

/// What was compared.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Probes {
    pub(crate) ready: usize,
    pub(crate) not_ready: usize,
    /// Readiness said before and after a send what the send did not get.
    pub(crate) wrong: usize,
}

pub(crate) struct Prober {
    stop: watch::Sender<bool>,
    task: JoinHandle<Probes>,
}

impl Prober {
    pub(crate) fn start(admin: Api, api: Api, tenant: Uuid) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(compare(admin, api, tenant, stopped));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> anyhow::Result<Probes> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

async fn compare(admin: Api, api: Api, tenant: Uuid, stopped: watch::Receiver<bool>) -> Probes {
    let mut probes = Probes::default();
    while !*stopped.borrow() {
        let before = is_ready(&admin).await;
        let served = is_served(&api, tenant).await;
        tokio::time::sleep(APART).await;
        // Else it changed meanwhile, and nobody knows which was meant.
        if is_ready(&admin).await == before {
            probes.ready += usize::from(before);
            probes.not_ready += usize::from(!before);
            probes.wrong += usize::from(before != served);
        }
    }
    probes
}

pub(crate) async fn is_ready(admin: &Api) -> bool {
    let answer = tokio::time::timeout(PATIENCE, admin.get_absolute("/readyz")).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}

/// Whether a user who was never seen before gets a stream.
async fn is_served(api: &Api, tenant: Uuid) -> bool {
    let send = async {
        let user = api.acting_as(tenant, Uuid::new_v4())?;
        let chat = user.create_chat(None).await?;
        user.try_open(&chat, &json!({"content": "hello"})).await
    };
    matches!(tokio::time::timeout(PATIENCE, send).await, Ok(Ok(Ok(_))))
}
