//! Resolves names to addresses.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Maximum age of a lookup that others may join. Most answers arrive sooner. If
/// a packet is lost, only the callers who joined early wait for it.
const JOINED_WITHIN: Duration = Duration::from_millis(250);

/// Maximum number of unanswered lookups per name, so that a name server that
/// never answers cannot use up the threads.
const UNANSWERED_PER_NAME: usize = 2;

/// Maximum number of lookups in progress: half of the runtime's threads for
/// blocking work.
const UNDER_WAY: usize = 256;

/// Lookups in progress. Callers who want the same name at the same time share
/// one.
/// A process that starts under load needs one provider's address hundreds of
/// times at once. In a pod, each lookup asks for every entry of the search
/// list, twice. If some of so many packets are lost, each loss costs seconds.
/// Answers are not cached: only the system's resolver knows how long they are
/// valid.
pub(super) struct Lookups {
    /// By name, the oldest first.
    under_way: Mutex<HashMap<Box<str>, Vec<UnderWay>>>,
    room: Arc<Semaphore>,
    /// Number of answers given.
    given: AtomicUsize,
    /// Scripted answers, one per lookup, instead of those of the system's
    /// resolver.
    #[cfg(test)]
    pub(super) scripted: Mutex<std::collections::VecDeque<Vec<IpAddr>>>,
}

struct UnderWay {
    since: Instant,
    lookup: Shared<Lookup>,
    /// The task holds it until it has an answer, even if no caller waits.
    unanswered: Weak<()>,
}

type Lookup = BoxFuture<'static, Result<Arc<[IpAddr]>, Arc<io::Error>>>;

impl Default for Lookups {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
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
    pub(super) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        #[cfg(test)]
        if let Some(answer) = self.scripted.lock().ok().and_then(|mut it| it.pop_front()) {
            return Ok(answer.iter().map(|it| SocketAddr::new(*it, port)).collect());
        }
        let found = self.share(host, system).await;
        let found = found.map_err(|error| io::Error::new(error.kind(), error))?;
        let mut found: Vec<_> = found.iter().map(|it| SocketAddr::new(*it, port)).collect();
        turn(&mut found, self.given.fetch_add(1, Ordering::Relaxed));
        Ok(found)
    }

    /// The lookup of `host` that is in progress, or else the one that `resolve`
    /// starts.
    fn share<F>(&self, host: &str, resolve: impl FnOnce(Box<str>) -> F) -> Shared<Lookup>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let under_way = self.under_way.lock();
        let mut under_way = under_way.unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, lookups| {
            lookups.retain(UnderWay::is_unanswered);
            !lookups.is_empty()
        });
        let lookups = under_way.get(host).map_or(&[][..], Vec::as_slice);
        let youngest = lookups.last();
        let is_joined = |it: &&UnderWay| it.is_young() || lookups.len() >= UNANSWERED_PER_NAME;
        if let Some(joined) = youngest.filter(is_joined) {
            return joined.lookup.clone();
        }
        let begun = self.begin(host, resolve);
        let lookup = begun.lookup.clone();
        under_way.entry(host.into()).or_default().push(begun);
        lookup
    }

    fn begin<F>(&self, host: &str, resolve: impl FnOnce(Box<str>) -> F) -> UnderWay
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let (lookup, room) = (resolve(host.into()), Arc::clone(&self.room));
        let unanswered = Arc::new(());
        let answered = Arc::downgrade(&unanswered);
        // In its own task the lookup continues whichever caller waits, and a
        // panic becomes an error.
        let task = tokio::spawn(async move {
            let place = room.acquire().await.map_err(io::Error::other)?;
            let found = lookup.await;
            drop((place, unanswered));
            found
        });
        let found = task.map(|found| found.map_err(io::Error::from).flatten());
        let found = found.map(|found| found.map(Arc::from).map_err(Arc::new));
        UnderWay {
            since: Instant::now(),
            lookup: found.boxed().shared(),
            unanswered: answered,
        }
    }
}

impl UnderWay {
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
mod tests {
    use futures_util::future::{join_all, pending, ready};
    use tokio::sync::oneshot;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn never(_: Box<str>) -> std::future::Ready<io::Result<Vec<IpAddr>>> {
        panic!("a second lookup")
    }

    #[tokio::test]
    async fn who_asks_while_a_name_is_looked_up_gets_that_answer() {
        let lookups = Lookups::default();
        let (answer, answered) = oneshot::channel();
        let mut first = lookups.share("host", async |_| Ok(answered.await.unwrap()));
        assert!((&mut first).now_or_never().is_none());
        let others: Vec<_> = (0..200).map(|_| lookups.share("host", never)).collect();
        let other = lookups.share("elsewhere", |_| ready(Ok(vec![])));
        assert!(other.await.unwrap().is_empty());
        // The caller who started the lookup is gone; the others still get the
        // answer.
        drop(first);
        answer.send(vec![ADDRESS]).unwrap();
        for found in join_all(others).await {
            assert_eq!(*found.unwrap(), [ADDRESS]);
        }
    }

    #[tokio::test]
    async fn an_answer_is_given_to_nobody_who_asks_after_it() {
        let lookups = Lookups::default();
        let failed = |_| ready(Err(io::ErrorKind::NotFound.into()));
        let first = lookups.share("host", failed);
        let error = first.clone().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let second = lookups.share("host", |_| ready(Ok(vec![ADDRESS])));
        assert_eq!(*second.await.unwrap(), [ADDRESS]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_takes_long_is_not_joined() {
        let lookups = Lookups::default();
        let stuck = lookups.share("host", |_| pending());
        tokio::time::advance(JOINED_WITHIN.mul_f32(0.9)).await;
        assert!(lookups.share("host", never).ptr_eq(&stuck));
        tokio::time::advance(JOINED_WITHIN).await;
        let next = lookups.share("host", |_| ready(Ok(vec![ADDRESS])));
        assert_eq!(*next.await.unwrap(), [ADDRESS]);
    }

    /// The system's resolver occupies its thread until it gives up.
    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_never_answered_takes_few_threads() {
        let lookups = Lookups::default();
        let (answer, answered) = oneshot::channel();
        drop(lookups.share("host", |_| pending()));
        tokio::time::advance(JOINED_WITHIN).await;
        let second = lookups.share("host", async |_| Ok(answered.await.unwrap()));
        for _ in 0..10 {
            tokio::time::advance(JOINED_WITHIN).await;
            assert!(lookups.share("host", never).ptr_eq(&second));
        }
        answer.send(vec![ADDRESS]).unwrap();
        assert_eq!(*second.await.unwrap(), [ADDRESS]);
        let next = lookups.share("host", |_| ready(Ok(vec![])));
        assert!(next.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn names_beyond_the_room_for_lookups_wait() {
        let lookups = Lookups::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = tokio::sync::watch::channel(());
        let resolve = |_: Box<str>| {
            let (begun, mut answered) = (Arc::clone(&begun), answered.clone());
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                let _ = answered.changed().await;
                Ok(vec![ADDRESS])
            }
        };
        let names =
            (0..2 * UNDER_WAY).map(|number| lookups.share(&format!("host{number}"), resolve));
        let all = tokio::spawn(join_all(names.collect::<Vec<_>>()));
        while begun.load(Ordering::Relaxed) < UNDER_WAY {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.load(Ordering::Relaxed), UNDER_WAY);
        drop(answer);
        assert!(all.await.unwrap().iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn answers_leave_nothing_behind() {
        let lookups = Lookups::default();
        for name in ["a", "b", "c"] {
            let found = lookups.share(name, |_| ready(Ok(vec![ADDRESS])));
            assert_eq!(*found.await.unwrap(), [ADDRESS]);
        }
        assert_eq!(lookups.under_way.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_this_lookup_alone() {
        let lookups = Lookups::default();
        let broken = lookups.share("host", async |_| panic!("no thread"));
        assert!(broken.clone().await.is_err());
        let next = lookups.share("host", |_| ready(Ok(vec![ADDRESS])));
        assert_eq!(*next.await.unwrap(), [ADDRESS]);
    }

    #[tokio::test]
    async fn addresses_are_themselves_and_names_of_the_system_are_found() {
        let lookups = Lookups::default();
        let v6 = lookups.addresses("::1", 80).await.unwrap();
        assert_eq!(v6, ["[::1]:80".parse().unwrap()]);
        let local = lookups.addresses("localhost", 81).await.unwrap();
        assert!(!local.is_empty());
        for address in local {
            assert!(address.ip().is_loopback() && address.port() == 81);
        }
    }

    #[test]
    fn those_who_share_an_answer_begin_with_different_addresses_of_the_preferred_family() {
        let addresses = ["1.1.1.1:1", "1.1.1.2:1", "[::1]:1"].map(|it| it.parse().unwrap());
        let turned = |by| {
            let mut turned = addresses;
            turn(&mut turned, by);
            turned.map(|it| addresses.iter().position(|one| *one == it).unwrap())
        };
        assert_eq!([0, 1, 2].map(turned), [[0, 1, 2], [1, 0, 2], [0, 1, 2]]);
        turn(&mut [], 1);
    }
}
