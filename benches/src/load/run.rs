//! Running many streams on many kept-alive connections, in one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::LocalSet;

use super::connection::Connection;
use super::events::EventReader;
use super::reading::Reading;

/// Which streams to open and how many at a time.
#[derive(Debug)]
pub struct Plan {
    /// Where the subject listens.
    pub target: SocketAddr,
    /// Kept-alive connections; each carries one stream at a time.
    pub clients: usize,
    /// The clients start evenly spread over this time, so that their first tokens do not coincide.
    pub ramp: Duration,
    /// The complete HTTP request of each stream, in order.
    pub requests: Vec<Bytes>,
    /// Chunks that every answer must have.
    pub expected_chunks: u32,
}

/// Runs all streams of the plan. Must be called inside a current-thread runtime.
///
/// Every client reports into one histogram, which is why all of them live on one thread.
pub async fn run(plan: Plan) -> anyhow::Result<Reading> {
    let started = Instant::now();
    let reading = Rc::new(RefCell::new(Reading::new()?));
    let clients = plan.clients.min(plan.requests.len());
    let plan = Rc::new(plan);
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    for client in 0..clients {
        let delay = plan.ramp * u32::try_from(client)? / u32::try_from(clients)?;
        let (plan, next, reading) = (Rc::clone(&plan), Rc::clone(&next), Rc::clone(&reading));
        local.spawn_local(async move {
            tokio::time::sleep(delay).await;
            run_client(&plan, &next, &reading).await;
        });
    }
    local.await;
    let mut reading = Rc::try_unwrap(reading)
        .map_err(|_| anyhow::anyhow!("a client outlived the run"))?
        .into_inner();
    reading.elapsed = started.elapsed();
    Ok(reading)
}

async fn run_client(plan: &Plan, next: &Cell<usize>, reading: &RefCell<Reading>) {
    let mut connection = Connection::new(plan.target);
    while let Some(request) = plan.requests.get(next.replace(next.get() + 1)) {
        run_stream(&mut connection, request, plan.expected_chunks, reading).await;
    }
}

async fn run_stream(
    connection: &mut Connection,
    request: &[u8],
    expected: u32,
    reading: &RefCell<Reading>,
) {
    let mut events = EventReader::default();
    let mut first_token = None;
    let outcome = connection
        .exchange(request, |bytes, now| {
            events.feed(bytes, |stamp| {
                reading.borrow_mut().record_chunk(now.saturating_sub(stamp));
                first_token.get_or_insert(now);
            });
        })
        .await;
    let mut reading = reading.borrow_mut();
    match outcome {
        Ok(exchange) => {
            if let Some(at) = first_token {
                reading.record_first_token(at.saturating_sub(exchange.sent_at));
            }
            reading.record_end(exchange, &events, expected);
        }
        Err(error) => reading.record_error(&error),
    }
}
