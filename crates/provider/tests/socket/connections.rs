//! Reuse and closing of connections (PLAT-105, TURN-48, QUOTA-61).

use std::time::{Duration, Instant};

use minichat_provider::{ProviderEvent, Terminal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::coop::{consume_budget, has_budget_remaining};

use crate::support::{Setup, read};
use minichat_scripted_provider::{Ending, Scenario};

/// Sends a request and waits for the end of the body, which may arrive after
/// the terminal event.
async fn ask_to_the_end(setup: &Setup) {
    setup.send("PING").await.unwrap();
    setup
        .server
        .wait_until(|stats| stats.answers_open == 0)
        .await;
    tokio::task::yield_now().await;
}

/// PLAT-105
#[tokio::test]
async fn answers_share_a_kept_alive_connection() {
    let setup = Setup::responses().await;
    for _ in 0..5 {
        ask_to_the_end(&setup).await;
    }
    let connections = setup.server.stats().connections_total;
    assert!(connections < 5, "{connections} connections for 5 answers");
}

/// A connection of another runtime would wake two threads for every piece.
#[tokio::test]
async fn a_connection_is_kept_for_the_runtime_that_made_it() {
    let setup = std::sync::Arc::new(Setup::responses().await);
    ask_to_the_end(&setup).await;
    let elsewhere = std::sync::Arc::clone(&setup);
    let sent = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(elsewhere.send("PING")).unwrap();
    });
    sent.await.unwrap();
    assert_eq!(setup.server.stats().connections_total, 2);
    setup.send("PING").await.unwrap();
    assert_eq!(setup.server.stats().connections_total, 2);
}

/// PLAT-105
#[tokio::test]
async fn providers_that_close_after_each_answer_work() {
    let setup = Setup::responses().await;
    setup.server.push_scenario(Scenario {
        close: true,
        times: 5,
        ..Scenario::default()
    });
    for _ in 0..5 {
        let answer = setup.send("PING").await.unwrap();
        assert!(matches!(answer.terminal, Terminal::Completed(_)));
    }
    assert_eq!(setup.server.requests().len(), 5);
    setup
        .server
        .wait_until(|stats| stats.connections_open == 0)
        .await;
}

/// PLAT-105, TURN-48
#[tokio::test]
async fn a_dropped_stream_closes_its_connection_at_once() {
    let setup = Setup::responses().await;
    setup
        .server
        .push_scenario(Scenario::deltas(&["a"], Ending::Hang));
    let mut stream = setup.open("Hi").await.unwrap();
    assert!(stream.next().await.is_some());
    drop(stream);
    let stats = setup
        .server
        .wait_until(|stats| stats.answers_aborted == 1)
        .await;
    assert_eq!(stats.answers_finished, 0);
    setup
        .server
        .wait_until(|stats| stats.connections_open == 0)
        .await;
}

/// TURN-47, QUOTA-61
#[tokio::test]
async fn an_abandoned_open_closes_its_connection_and_tells_that_it_started() {
    let setup = Setup::responses().await;
    setup.server.push_scenario(Scenario {
        hold_before_head: true,
        ..Scenario::default()
    });
    tokio::select! {
        _ = setup.open("Hi") => panic!("the head is held"),
        _ = setup.server.wait_until(|stats| stats.answers_started == 1) => {}
    }
    assert!(setup.started.get());
    setup
        .server
        .wait_until(|stats| stats.answers_aborted == 1 && stats.connections_open == 0)
        .await;
}

#[tokio::test]
async fn a_dropped_wait_loses_no_event() {
    let setup = Setup::responses().await;
    let deltas: Vec<String> = (0..200).map(|number| format!("{number} ")).collect();
    let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
    setup.server.push_scenario(Scenario {
        interval_ms: 1,
        ..Scenario::deltas(&deltas, Ending::Completed)
    });
    let mut stream = setup.open("Hi").await.unwrap();
    let mut text = String::new();
    let mut ticks = tokio::time::interval(Duration::from_micros(300));
    loop {
        tokio::select! {
            biased;
            event = stream.next() => match event.unwrap() {
                ProviderEvent::Delta { text: piece, .. } => text.push_str(piece),
                ProviderEvent::TextWasReasoning | ProviderEvent::Progress | ProviderEvent::Tool(_) => {}
                ProviderEvent::Terminal(terminal) => {
                    assert!(matches!(terminal, Terminal::Completed(_)));
                    break;
                }
            },
            _ = ticks.tick() => {}
        }
    }
    assert_eq!(text, deltas.concat());
}

/// Everything that has arrived can be taken without waiting, in order and
/// complete.
#[tokio::test]
async fn a_burst_is_taken_without_waiting() {
    let mut setup = Setup::responses().await;
    setup.model = "paced-ttft0-chunks2000-interval0";
    let mut stream = setup.open("Hi").await.unwrap();
    let (mut waits, mut deltas, mut ended) = (0, 0, false);
    let mut count = |event: ProviderEvent<'_>| match event {
        ProviderEvent::Delta { .. } => {
            deltas += 1;
            false
        }
        ProviderEvent::TextWasReasoning | ProviderEvent::Progress | ProviderEvent::Tool(_) => false,
        ProviderEvent::Terminal(_) => true,
    };
    while !ended {
        waits += 1;
        ended = stream.next().await.is_some_and(&mut count);
        while let Some(event) = stream.try_next() {
            ended |= count(event);
        }
    }
    assert_eq!(deltas, 2000);
    assert!(waits < 1000, "{waits} waits for 2000 deltas");
}

/// A future that never waits is made to yield. Outside the runtime's own
/// threads, as here, the socket then wakes it in every round.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_has_used_up_its_share_of_the_runtime_gives_way_and_reads_on() {
    let setup = Setup::responses().await;
    setup.server.push_scenario(Scenario {
        interval_ms: 20,
        ..Scenario::deltas(&["a", "b", "c"], Ending::Completed)
    });
    let mut stream = setup.open("Hi").await.unwrap();
    while has_budget_remaining() {
        consume_budget().await;
    }
    assert_eq!(read(&mut stream).await.text, "abc");
}

/// Small writes are not delayed for acknowledgements. With Nagle's algorithm on
/// either side, even the fastest exchange would take 40 ms.
#[tokio::test]
async fn two_event_streams_over_a_kept_alive_connection_are_quick() {
    let setup = Setup::responses().await;
    setup.send("PING").await.unwrap();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let began = Instant::now();
        setup.send("Hi").await.unwrap();
        best = best.min(began.elapsed());
    }
    assert!(best < Duration::from_millis(20), "{best:?}");
}

/// Answers the next connection with `pieces`, one write each, and closes it.
async fn answer_raw(listener: &TcpListener, pieces: impl Iterator<Item = &[u8]>) {
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut request = vec![0; 64 * 1024];
    let _ = socket.read(&mut request).await.unwrap();
    for piece in pieces {
        socket.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    socket.shutdown().await.unwrap();
}

async fn listener_for(setup: &mut Setup) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    setup.provider.port = listener.local_addr().unwrap().port();
    listener
}

/// D27: the bytes may be cut anywhere, and the body may have no length.
#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_read_byte_by_byte() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n\
        \u{feff}: hello\r\nevent: response.output_text.delta\r\ndata: {\"delta\":\"né 🦀\"}\r\n\r\n\
        event: response.completed\r\ndata: {\"response\":{\"id\":\"resp_1\"}}\r\n\r\n";
    let mut setup = Setup::responses().await;
    let listener = listener_for(&mut setup).await;
    let server = answer_raw(&listener, answer.as_bytes().chunks(1));
    let (answer, ()) = tokio::join!(setup.send("Hi"), server);
    let answer = answer.unwrap();
    assert_eq!(answer.text, "né 🦀");
    assert!(
        matches!(answer.terminal, Terminal::Completed(_)),
        "{answer:?}"
    );
}

/// PLAT-119: the client notices it and does not spend the one retry on it.
#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used_again() {
    let frame = "event: response.completed\ndata: {}\n\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
            transfer-encoding: chunked\r\n\r\n{:x}\r\n{frame}\r\n0\r\n\r\n",
        frame.len()
    );
    let refusal = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let mut setup = Setup::responses().await;
    let listener = listener_for(&mut setup).await;
    let first = answer_raw(&listener, std::iter::once(answer.as_bytes()));
    let (sent, ()) = tokio::join!(setup.send("Hi"), first);
    sent.unwrap();
    // The end of the connection has arrived; the pause lets the runtime see it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::spawn(async move {
        answer_raw(&listener, std::iter::once(refusal.as_bytes())).await;
        answer_raw(&listener, std::iter::once(answer.as_bytes())).await;
    });
    setup.send("Hi").await.unwrap();
}
