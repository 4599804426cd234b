//! From a name to its addresses.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::net::lookup_host;

/// Lookups under way, each shared by all who want its name meanwhile.
///
/// A process that starts under load wants one provider hundreds of times at
/// once, and asks in a pod for each entry of the search list, twice. What gets
/// lost of so many packets costs seconds each.
///
/// No answer is kept: how long it holds only the system's resolver knows.
#[derive(Default)]
pub(super) struct Lookups {
    under_way: Mutex<HashMap<Box<str>, WeakShared<Lookup>>>,
}

type Lookup = BoxFuture<'static, Result<Arc<[IpAddr]>, Arc<io::Error>>>;

impl Lookups {
    /// The addresses of `host`, an address or a name, with `port`.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found = self.share(host, system).await;
        let found = found.map_err(|error| io::Error::new(error.kind(), error))?;
        Ok(found.iter().map(|it| SocketAddr::new(*it, port)).collect())
    }

    /// The lookup of `host` that is under way, else the one that `look` begins.
    fn share<F>(&self, host: &str, look: impl FnOnce(Box<str>) -> F) -> Shared<Lookup>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let under_way = self.under_way.lock();
        let mut under_way = under_way.unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, lookup| lookup.upgrade().is_some_and(|it| it.peek().is_none()));
        if let Some(lookup) = under_way.get(host).and_then(WeakShared::upgrade) {
            return lookup;
        }
        let found = look(host.into()).map(|found| found.map(Arc::from).map_err(Arc::new));
        let lookup = found.boxed().shared();
        under_way.extend(lookup.downgrade().map(|lookup| (host.into(), lookup)));
        lookup
    }
}

async fn system(host: Box<str>) -> io::Result<Vec<IpAddr>> {
    let found = lookup_host((&*host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
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
        let first = lookups.share("host", async |_| Ok(answered.await.unwrap()));
        let others: Vec<_> = (0..200).map(|_| lookups.share("host", never)).collect();
        let other = lookups.share("elsewhere", |_| ready(Ok(vec![])));
        assert!(other.await.unwrap().is_empty());
        // Nobody depends on the one who began.
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

    #[tokio::test]
    async fn a_lookup_that_nobody_wants_any_more_is_given_up() {
        let lookups = Lookups::default();
        drop(lookups.share("host", |_| pending()));
        let next = lookups.share("host", |_| ready(Ok(vec![ADDRESS])));
        assert_eq!(*next.await.unwrap(), [ADDRESS]);
        assert_eq!(lookups.under_way.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn addresses_are_themselves_and_names_of_the_system_are_found() {
        let lookups = Lookups::default();
        let v6 = lookups.addresses("::1", 80).await.unwrap();
        assert_eq!(v6, ["[::1]:80".parse().unwrap()]);
        let local = lookups.addresses("localhost", 81).await.unwrap();
        assert!(
            local
                .iter()
                .all(|it| it.ip().is_loopback() && it.port() == 81)
        );
    }
}
