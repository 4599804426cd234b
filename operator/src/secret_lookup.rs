//! Finds out whether a Secret exists that lacks the label for tenants (D49). No cache holds
//! such Secrets. The lookup reads only metadata, and keeps each answer for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ListParams};
use minichat_crds::validation::is_subdomain;
use tokio::time::Instant;

/// How long an answer counts.
pub(crate) const REMEMBERED: Duration = Duration::from_mins(1);

/// `namespace/name`.
type Name = (String, String);

pub(crate) struct SecretLookup {
    client: Client,
    answers: Mutex<HashMap<Name, Answer>>,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    exists: bool,
    since: Instant,
}

impl SecretLookup {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
        }
    }

    /// Whether there is such a Secret; `false` if the API server does not answer. The message
    /// for a Secret that does not exist fits both.
    pub(crate) async fn exists(&self, namespace: &str, name: &str) -> bool {
        // Others are no names, and could say more than a name in a selector.
        if !is_subdomain(name) {
            return false;
        }
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(answer) = self.remembered(&key) {
            return answer.exists;
        }
        // A list of one, so that the right to get Secrets is not needed.
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let exists = match secrets.list_metadata(&by_name).await {
            Ok(found) => !found.items.is_empty(),
            Err(error) => {
                tracing::debug!(%error, namespace, name, "the lookup of a Secret failed");
                false
            }
        };
        let since = Instant::now();
        self.answers().insert(key, Answer { exists, since });
        exists
    }

    /// The next question about such a Secret is asked anew.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.answers().remove(&key);
    }

    /// The answer for `key`, while it counts; others that do not are forgotten.
    fn remembered(&self, key: &Name) -> Option<Answer> {
        let mut answers = self.answers();
        answers.retain(|_, answer| answer.since.elapsed() < REMEMBERED);
        answers.get(key).copied()
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Name, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
