//! Tenants take turns (CONT-171). Several work at a time, each on one chat after the
//! other, and none waits for another. After a turn, a tenant goes to the end of the
//! queue, so that one with much to delete, or with a slow provider, does not hold up
//! those with little.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use minichat_core::{ChatId, TenantId};
use minichat_store::{
    CleanupClaim, CleanupCursor, CleanupTimes, DueChat, DueKind, DuePart, DuePlace, StoreError,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::pass::Pass;

/// Tenants that are cleaned side by side.
const PLACES: usize = 32;
/// Those of them whose provider failed the last time: they may have to wait for each
/// call as long as it may take.
const FAILING: usize = PLACES / 2;
/// How long a turn begins calls.
const TURN: Duration = Duration::from_secs(2);
/// Chats that are claimed for a turn.
const CLAIMS: usize = 8;
/// Turns in a row that the database fails, after which no other begins.
const FAILURES: u32 = 3;

/// What is left to do for a tenant.
struct Work {
    tenant: TenantId,
    /// Not empty; the first is worked on.
    parts: VecDeque<DuePart>,
    /// What was read last of it.
    behind: DuePlace,
    /// Chats that were read.
    chats: VecDeque<Chat>,
    /// Whether the last call of its provider failed.
    is_failing: bool,
}

/// A chat with something due.
pub(super) struct Chat {
    id: ChatId,
    /// The attachment that was tried last.
    pub(super) behind: Option<CleanupCursor>,
}

/// A turn that has ended.
struct Turn {
    work: Work,
    was_failing: bool,
    /// Whether something is left.
    result: Result<bool, StoreError>,
}

impl Work {
    /// Tenants with their `parts`, which are in their order.
    fn of(parts: Vec<DuePart>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for part in parts {
            match all.last_mut() {
                Some(work) if work.tenant == part.tenant_id => work.parts.push_back(part),
                _ => all.push(Self {
                    tenant: part.tenant_id,
                    parts: VecDeque::from([part]),
                    behind: DuePlace::START,
                    chats: VecDeque::new(),
                    is_failing: false,
                }),
            }
        }
        all
    }

    fn end_part(&mut self) {
        self.parts.pop_front();
        self.behind = DuePlace::START;
        self.chats.clear();
    }

    fn add(&mut self, due: &[DueChat]) {
        for chat in due {
            self.behind = chat.place;
            if self.chats.iter().all(|it| it.id != chat.chat_id) {
                self.chats.push_back(Chat {
                    id: chat.chat_id,
                    behind: None,
                });
            }
        }
    }
}

impl Pass<'_> {
    pub(super) async fn clean_tenants(&self) -> Result<(), StoreError> {
        let times = self.times().await?;
        let mut waiting = self.tenants(times).await?;
        let mut working = FuturesUnordered::new();
        let (mut failing, mut has_worked, mut failures) = (0, false, 0);
        let mut failed = None;
        loop {
            while working.len() < PLACES && !waiting.is_empty() && !self.must_stop() {
                let Some(work) = next(&mut waiting, failing) else {
                    break;
                };
                failing += usize::from(work.is_failing);
                working.push(self.turn(work, times));
            }
            let Some(turn) = working.next().await else {
                break;
            };
            failing -= usize::from(turn.was_failing);
            match turn.result {
                Ok(is_left) => {
                    (has_worked, failures) = (true, 0);
                    waiting.extend(is_left.then_some(turn.work));
                }
                // It is left to the next pass, and others go on.
                Err(error) => {
                    tracing::warn!(%error, tenant.id = %turn.work.tenant, "a tenant cannot be cleaned up");
                    failures += 1;
                    if failures >= FAILURES {
                        waiting.clear();
                    }
                    failed = Some(error);
                }
            }
        }
        failed.filter(|_| !has_worked).map_or(Ok(()), Err)
    }

    /// In another order in each pass, as its time may be over before the last.
    async fn tenants(&self, times: CleanupTimes) -> Result<VecDeque<Work>, StoreError> {
        let parts = self
            .read(move |tx| Box::pin(async move { tx.cleanup_parts(times.now).await }))
            .await?;
        let mut tenants = Work::of(parts);
        let order = RandomState::new();
        tenants.sort_by_cached_key(|work| order.hash_one(work.tenant.0));
        Ok(tenants.into())
    }

    async fn turn(&self, mut work: Work, times: CleanupTimes) -> Turn {
        let was_failing = work.is_failing;
        let result = self.work_on(&mut work, times).await;
        work.is_failing = work.parts.front().is_some_and(|it| self.is_failing(it));
        Turn {
            work,
            was_failing,
            result,
        }
    }

    /// Works on some chats of a tenant. Returns whether something is left.
    async fn work_on(&self, work: &mut Work, times: CleanupTimes) -> Result<bool, StoreError> {
        let part = loop {
            let Some(part) = work.parts.front_mut() else {
                return Ok(false);
            };
            if !self.can_work_on(part) {
                work.end_part();
            } else if work.chats.is_empty() {
                let due = self.due(part.clone(), work.behind, times).await?;
                if due.is_empty() {
                    work.end_part();
                }
                work.add(&due);
            } else {
                break part.clone();
            }
        };
        let token = format!("{}/{}", self.instance, Uuid::new_v4().as_simple());
        let cleaned = self.clean_some(work, &part, &token, times).await;
        self.release(token).await;
        cleaned.map(|()| true)
    }

    async fn clean_some(
        &self,
        work: &mut Work,
        part: &DuePart,
        token: &str,
        times: CleanupTimes,
    ) -> Result<(), StoreError> {
        let lease = 4 * self.cleanup.settings.call_timeout;
        let chats = work.chats.iter().take(CLAIMS).map(|chat| chat.id);
        let chats: Vec<ChatId> = chats.collect();
        let claimed = self.claim(work.tenant, chats.clone(), token, lease).await?;
        // From here on, so that each turn begins at least one call.
        let until = Instant::now() + TURN;
        // Those that another process works on are left to it.
        work.chats
            .retain(|it| claimed.contains(&it.id) || !chats.contains(&it.id));
        for _ in claimed {
            let Some(chat) = work.chats.front_mut() else {
                break;
            };
            let claim = CleanupClaim {
                tenant_id: work.tenant,
                chat_id: chat.id,
                token: token.to_owned(),
                lease,
            };
            if !self.clean_chat(&claim, part, chat, times, until).await? {
                break;
            }
            work.chats.pop_front();
        }
        Ok(())
    }

    /// Returns which of `chats` are claimed now.
    async fn claim(
        &self,
        tenant: TenantId,
        chats: Vec<ChatId>,
        token: &str,
        lease: Duration,
    ) -> Result<Vec<ChatId>, StoreError> {
        let token = token.to_owned();
        self.write(move |tx| {
            let (chats, token) = (chats.clone(), token.clone());
            Box::pin(async move { tx.cleanup_claim(tenant, &chats, &token, lease).await })
        })
        .await
    }

    /// Claims that cannot be given back expire.
    async fn release(&self, token: String) {
        let released = self.write(move |tx| {
            let released = tx.cleanup_release(&token);
            Box::pin(async move { released })
        });
        if let Err(error) = released.await {
            tracing::debug!(%error, "claims are not given back");
        }
    }

    async fn due(
        &self,
        part: DuePart,
        behind: DuePlace,
        times: CleanupTimes,
    ) -> Result<Vec<DueChat>, StoreError> {
        let limit = self.cleanup.settings.batch_size;
        self.read(move |tx| {
            let part = part.clone();
            Box::pin(async move { tx.cleanup_due(&part, times, behind, limit).await })
        })
        .await
    }

    /// Whether something of `part` can be done in this pass: without a provider, only
    /// what needs none.
    fn can_work_on(&self, part: &mut DuePart) -> bool {
        if part.kind == DueKind::Fileless {
            return true;
        }
        let Some(why) = self.misconfiguration(part) else {
            return !self.is_left_alone(part);
        };
        self.note_misconfiguration(part, &why);
        let has_files = part.kind == DueKind::Files;
        part.kind = DueKind::Fileless;
        has_files
    }
}

/// Takes the first tenant for which there is a place, if `failing` places are those of
/// tenants whose provider failed.
fn next(waiting: &mut VecDeque<Work>, failing: usize) -> Option<Work> {
    let place = waiting
        .iter()
        .position(|work| !work.is_failing || failing < FAILING)?;
    waiting.remove(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONT-171
    #[test]
    fn failing_tenants_leave_places_to_others() {
        let part = |n: u128| DuePart {
            tenant_id: TenantId(Uuid::from_u128(n)),
            kind: DueKind::Files,
            label: "main".to_owned(),
        };
        let parts = vec![part(1), part(1), part(2), part(3)];
        let mut waiting: VecDeque<Work> = Work::of(parts).into();
        waiting[0].is_failing = true;
        assert_eq!(waiting[0].parts.len(), 2);
        let mut take = |failing| next(&mut waiting, failing).map(|it| it.tenant.0.as_u128());
        assert_eq!(take(FAILING), Some(2));
        assert_eq!(take(FAILING - 1), Some(1));
        assert_eq!(take(FAILING), Some(3));
        assert_eq!(take(0), None);
    }
}
