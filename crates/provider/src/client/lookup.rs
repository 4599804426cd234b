//! Resolves names to addresses.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connector::ChosenBy;

/// Maximum age of a lookup that others may join. Most answers arrive sooner. If
/// a packet is lost, only the callers who joined early wait for it.
const JOINED_WITHIN: Duration = Duration::from_millis(250);

/// Maximum number of unanswered lookups per name, so that a name server that
/// never answers cannot use up the threads.
const UNANSWERED_PER_NAME: usize = 2;

/// Maximum number of lookups in progress: half of the runtime's threads for
/// blocking work.
const UNDER_WAY: usize = 256;

/// Maximum number of them per tenant, so that dead names in its manifests delay
/// only its own lookups.
const UNDER_WAY_PER_TENANT: usize = 16;

/// Lookups in progress. Callers who want the same name at the same time share
/// one.
///
/// A process that starts under load needs one provider's address hundreds of
/// times at once. In a pod, each lookup asks for every entry of the search
/// list, twice. If some of so many packets are lost, each loss costs seconds.
/// Answers are not cached: only the system's resolver knows how long they are
/// valid.
pub(super) struct Lookups {
    begun: Mutex<Begun>,
    room: Arc<Semaphore>,
    /// Number of answers given.
    given: AtomicUsize,
    /// Scripted answers, one per lookup, instead of those of the system's
    /// resolver.
    #[cfg(test)]
    pub(super) scripted: Mutex<std::collections::VecDeque<Vec<IpAddr>>>,
}

#[derive(Default)]
struct Begun {
    /// Of each name, the oldest first.
    by_name: HashMap<Box<str>, Vec<UnderWay>>,
    /// What the lookups of one tenant, and those of the process, share.
    rooms: HashMap<ChosenBy, Weak<Semaphore>>,
}

struct UnderWay {
    since: Instant,
    lookup: Shared<Lookup>,
    chosen_by: ChosenBy,
    /// Whether it has found room.
    is_running: Arc<AtomicBool>,
    /// The task holds it until it has an answer, even if no caller waits.
    unanswered: Weak<()>,
}

type Lookup = BoxFuture<'static, Result<Arc<[IpAddr]>, Arc<io::Error>>>;

impl Default for Lookups {
    fn default() -> Self {
        Self {
            begun: Mutex::default(),
            room: Arc::new(Semaphore::new(UNDER_WAY)),
            given: AtomicUsize::new(0),
            #[cfg(test)]
            scripted: Mutex::default(),
        }
    }
}

impl Lookups {
    /// The addresses of `host`, which is an address or a name, with `port`, in
    /// the order in which to try them.
    pub(super) async fn addresses(
        &self,
        host: &str,
        port: u16,
        chosen_by: ChosenBy,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        #[cfg(test)]
        if let Some(answer) = self.scripted.lock().ok().and_then(|mut it| it.pop_front()) {
            return Ok(answer.iter().map(|it| SocketAddr::new(*it, port)).collect());
        }
        let found = self.share(host, chosen_by, system).await;
        let found = found.map_err(|error| io::Error::new(error.kind(), error))?;
        let mut found: Vec<_> = found.iter().map(|it| SocketAddr::new(*it, port)).collect();
        turn(&mut found, self.given.fetch_add(1, Ordering::Relaxed));
        Ok(found)
    }

    /// The lookup of `host` that is in progress, or else the one that `resolve`
    /// starts.
    fn share<F>(
        &self,
        host: &str,
        chosen_by: ChosenBy,
        resolve: impl FnOnce(Box<str>) -> F,
    ) -> Shared<Lookup>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let begun = self.begun.lock();
        let mut begun = begun.unwrap_or_else(PoisonError::into_inner);
        begun.drop_answered();
        let lookups = begun.by_name.get(host).map_or(&[][..], Vec::as_slice);
        // A lookup that waits for another tenant's room may take long.
        let joinable = || lookups.iter().filter(|it| it.is_joinable_by(chosen_by));
        let is_joined = |it: &&UnderWay| it.is_young() || joinable().count() >= UNANSWERED_PER_NAME;
        if let Some(joined) = joinable().next_back().filter(is_joined) {
            return joined.lookup.clone();
        }
        let lookup = resolve(host.into());
        let own_room = begun.room_of(chosen_by);
        let new = self.begin(lookup, chosen_by, own_room);
        let lookup = new.lookup.clone();
        begun.by_name.entry(host.into()).or_default().push(new);
        lookup
    }

    fn begin<F>(&self, lookup: F, chosen_by: ChosenBy, own_room: Arc<Semaphore>) -> UnderWay
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let unanswered = Arc::new(());
        let answered = Arc::downgrade(&unanswered);
        let rooms = [own_room, Arc::clone(&self.room)];
        let entered = rooms
            .iter()
            .map(|room| Arc::clone(room).try_acquire_owned());
        let mut places: Vec<_> = entered.map_while(Result::ok).collect();
        let is_running = Arc::new(AtomicBool::new(places.len() == rooms.len()));
        let running = Arc::clone(&is_running);
        // In its own task the lookup continues whichever caller waits, and a
        // panic becomes an error.
        let task = tokio::spawn(async move {
            for room in rooms.into_iter().skip(places.len()) {
                places.push(room.acquire_owned().await.map_err(io::Error::other)?);
            }
            running.store(true, Ordering::Relaxed);
            let found = lookup.await;
            drop((places, unanswered));
            found
        });
        let found = task.map(|found| found.map_err(io::Error::from).flatten());
        let found = found.map(|found| found.map(Arc::from).map_err(Arc::new));
        UnderWay {
            since: Instant::now(),
            lookup: found.boxed().shared(),
            chosen_by,
            is_running,
            unanswered: answered,
        }
    }
}

impl Begun {
    fn drop_answered(&mut self) {
        self.by_name.retain(|_, lookups| {
            lookups.retain(UnderWay::is_unanswered);
            !lookups.is_empty()
        });
        self.rooms.retain(|_, room| room.strong_count() > 0);
    }

    fn room_of(&mut self, chosen_by: ChosenBy) -> Arc<Semaphore> {
        let room = self.rooms.get(&chosen_by).and_then(Weak::upgrade);
        room.unwrap_or_else(|| {
            let room = Arc::new(Semaphore::new(match chosen_by {
                ChosenBy::Tenant(_) => UNDER_WAY_PER_TENANT,
                ChosenBy::Process => UNDER_WAY,
            }));
            self.rooms.insert(chosen_by, Arc::downgrade(&room));
            room
        })
    }
}

impl UnderWay {
    fn is_joinable_by(&self, chosen_by: ChosenBy) -> bool {
        self.chosen_by == chosen_by || self.is_running.load(Ordering::Relaxed)
    }

    fn is_unanswered(&self) -> bool {
        self.unanswered.strong_count() > 0
    }

    fn is_young(&self) -> bool {
        self.since.elapsed() < JOINED_WITHIN
    }
}

async fn system(host: Box<str>) -> io::Result<Vec<IpAddr>> {
    let found = lookup_host((&*host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Rotates the addresses of the preferred family, so that callers who share an
/// answer spread over them.
fn turn(addresses: &mut [SocketAddr], by: usize) {
    let preferred = addresses
        .iter()
        .take_while(|it| it.is_ipv4() == addresses[0].is_ipv4())
        .count();
    if let Some(by) = by.checked_rem(preferred) {
        addresses[..preferred].rotate_left(by);
    }
}

#[cfg(test)]
mod tests;
