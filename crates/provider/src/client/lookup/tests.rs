use futures_util::future::{join_all, pending, ready};
use minichat_core::TenantId;
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
    let mut first = lookups.share("host", ChosenBy::Process, async |_| {
        Ok(answered.await.unwrap())
    });
    assert!((&mut first).now_or_never().is_none());
    let others: Vec<_> = (0..200)
        .map(|_| lookups.share("host", ChosenBy::Process, never))
        .collect();
    let other = lookups.share("elsewhere", ChosenBy::Process, |_| ready(Ok(vec![])));
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
    let first = lookups.share("host", ChosenBy::Process, failed);
    let error = first.clone().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let second = lookups.share("host", ChosenBy::Process, |_| ready(Ok(vec![ADDRESS])));
    assert_eq!(*second.await.unwrap(), [ADDRESS]);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_takes_long_is_not_joined() {
    let lookups = Lookups::default();
    let stuck = lookups.share("host", ChosenBy::Process, |_| pending());
    tokio::time::advance(JOINED_WITHIN.mul_f32(0.9)).await;
    assert!(
        lookups
            .share("host", ChosenBy::Process, never)
            .ptr_eq(&stuck)
    );
    tokio::time::advance(JOINED_WITHIN).await;
    let next = lookups.share("host", ChosenBy::Process, |_| ready(Ok(vec![ADDRESS])));
    assert_eq!(*next.await.unwrap(), [ADDRESS]);
}

/// Its thread is not free before the system's resolver gives it up.
#[tokio::test(start_paused = true)]
async fn a_name_that_is_never_answered_takes_few_threads() {
    let lookups = Lookups::default();
    let (answer, answered) = oneshot::channel();
    drop(lookups.share("host", ChosenBy::Process, |_| pending()));
    tokio::time::advance(JOINED_WITHIN).await;
    let second = lookups.share("host", ChosenBy::Process, async |_| {
        Ok(answered.await.unwrap())
    });
    for _ in 0..10 {
        tokio::time::advance(JOINED_WITHIN).await;
        assert!(
            lookups
                .share("host", ChosenBy::Process, never)
                .ptr_eq(&second)
        );
    }
    answer.send(vec![ADDRESS]).unwrap();
    assert_eq!(*second.await.unwrap(), [ADDRESS]);
    let next = lookups.share("host", ChosenBy::Process, |_| ready(Ok(vec![])));
    assert!(next.await.unwrap().is_empty());
}

#[tokio::test]
async fn names_beyond_the_room_for_lookups_wait() {
    let lookups = Lookups::default();
    let begun = Arc::new(AtomicUsize::new(0));
    let (answer, answered) = tokio::sync::watch::channel(());
    let look = |_: Box<str>| {
        let (begun, mut answered) = (Arc::clone(&begun), answered.clone());
        async move {
            begun.fetch_add(1, Ordering::Relaxed);
            let _ = answered.changed().await;
            Ok(vec![ADDRESS])
        }
    };
    let names = (0..2 * UNDER_WAY)
        .map(|number| lookups.share(&format!("host{number}"), ChosenBy::Process, look));
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

fn tenant(number: u128) -> ChosenBy {
    ChosenBy::Tenant(TenantId(uuid::Uuid::from_u128(number)))
}

/// 128 names whose servers never answer would fill the room of all.
#[tokio::test(start_paused = true)]
async fn dead_names_of_one_tenant_delay_no_lookup_of_another() {
    let lookups = Lookups::default();
    for _ in 0..UNANSWERED_PER_NAME {
        for number in 0..128 {
            drop(lookups.share(&format!("dead{number}"), tenant(1), |_| pending()));
        }
        tokio::time::sleep(JOINED_WITHIN).await;
    }
    drop(lookups.share("models", tenant(1), |_| pending()));
    for (name, chosen_by) in [
        ("alive", tenant(2)),
        ("models", tenant(2)),
        ("alive", ChosenBy::Process),
    ] {
        let found = lookups.share(name, chosen_by, |_| ready(Ok(vec![ADDRESS])));
        let found = tokio::time::timeout(JOINED_WITHIN, found).await;
        assert_eq!(*found.expect(name).unwrap(), [ADDRESS]);
    }
}

/// Its own lookups wait for each other.
#[tokio::test(start_paused = true)]
async fn a_tenant_has_room_again_when_its_lookups_are_answered() {
    let lookups = Lookups::default();
    let (answer, answered) = tokio::sync::watch::channel(());
    for number in 0..UNDER_WAY_PER_TENANT {
        let mut answered = answered.clone();
        let slow = |_: Box<str>| async move {
            let _ = answered.changed().await;
            Ok(vec![])
        };
        drop(lookups.share(&format!("slow{number}"), tenant(1), slow));
    }
    let mut next = lookups.share("next", tenant(1), |_| ready(Ok(vec![ADDRESS])));
    tokio::time::sleep(JOINED_WITHIN).await;
    assert!((&mut next).now_or_never().is_none());
    drop(answer);
    assert_eq!(*next.await.unwrap(), [ADDRESS]);
}

#[tokio::test]
async fn answers_leave_nothing_behind() {
    let lookups = Lookups::default();
    for name in ["a", "b", "c"] {
        let found = lookups.share(name, ChosenBy::Process, |_| ready(Ok(vec![ADDRESS])));
        assert_eq!(*found.await.unwrap(), [ADDRESS]);
    }
    assert_eq!(lookups.begun.lock().unwrap().by_name.len(), 1);
}

#[tokio::test]
async fn a_panic_is_an_error_of_this_lookup_alone() {
    let lookups = Lookups::default();
    let broken = lookups.share("host", ChosenBy::Process, async |_| panic!("no thread"));
    assert!(broken.clone().await.is_err());
    let next = lookups.share("host", ChosenBy::Process, |_| ready(Ok(vec![ADDRESS])));
    assert_eq!(*next.await.unwrap(), [ADDRESS]);
}

#[tokio::test]
async fn addresses_are_themselves_and_names_of_the_system_are_found() {
    let lookups = Lookups::default();
    let v6 = lookups
        .addresses("::1", 80, ChosenBy::Process)
        .await
        .unwrap();
    assert_eq!(v6, ["[::1]:80".parse().unwrap()]);
    let local = lookups
        .addresses("localhost", 81, ChosenBy::Process)
        .await
        .unwrap();
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
