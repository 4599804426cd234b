//! A network between the data plane and PostgreSQL: a proxy that hands each chunk on a fixed time after it came, in both
//! directions, and counts round trips.
//!
//! Chunks do not wait for one another: any number is on its way at once, as on a wire. The waiting is done by threads,
//! because the timers of the runtime count whole milliseconds.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use hdrhistogram::Histogram;

const CHUNK_BYTES: usize = 64 * 1024;
/// Nanoseconds by which the kernel may let a thread sleep longer than it asked for. Its default is 50,000.
const TIMER_SLACK: Option<NonZeroU64> = NonZeroU64::new(1);

/// Longest time that is told apart from longer ones.
const LONGEST_NANOS: u64 = 10_000_000_000;

/// A running proxy. When dropped, it takes no further connections; those that are open end with their peers.
pub struct Network {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    server: SocketAddr,
    /// One way.
    delay: Duration,
    round_trips: AtomicU64,
    /// Nanoseconds that chunks were really on their way.
    transit: Mutex<Histogram<u64>>,
    is_over: AtomicBool,
}

impl Network {
    /// Listens on loopback in front of `server`. `delay` is that of one direction.
    pub fn before(server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            server,
            delay,
            round_trips: AtomicU64::new(0),
            transit: Mutex::new(Histogram::new_with_max(LONGEST_NANOS, 3)?),
            is_over: AtomicBool::new(false),
        });
        let accepted = Arc::clone(&state);
        let accepting = thread::spawn(move || accept(&listener, &accepted));
        Ok(Self {
            address,
            state,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a client has said something after the server had answered, or first, over all connections.
    pub fn round_trips(&self) -> u64 {
        self.state.round_trips.load(Ordering::Relaxed)
    }

    /// Nanoseconds that half of the chunks were on their way at most, one way.
    pub fn median_transit_nanos(&self) -> u64 {
        self.state.transit().value_at_quantile(0.5)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; if nobody listens any more, it has ended.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("address", &self.address)
            .field("server", &self.state.server)
            .finish_non_exhaustive()
    }
}

impl State {
    fn transit(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.transit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        // A connection that cannot be made is closed, which its client notices.
        let _ = client.and_then(|client| connect(client, state));
    }
}

fn connect(client: TcpStream, state: &Arc<State>) -> io::Result<()> {
    let server = TcpStream::connect(state.server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Whether the client was the last to say something.
    let asked = Arc::new(AtomicBool::new(false));
    let answered = Arc::clone(&asked);
    let counted = Arc::clone(state);
    let on_question = move || {
        if !asked.swap(true, Ordering::Relaxed) {
            counted.round_trips.fetch_add(1, Ordering::Relaxed);
        }
    };
    let on_answer = move || answered.store(false, Ordering::Relaxed);
    forward(client.try_clone()?, server.try_clone()?, state, on_question);
    forward(server, client, state, on_answer);
    Ok(())
}

/// A chunk and when it came.
type Chunk = (Instant, Vec<u8>);

fn forward(
    from: TcpStream,
    to: TcpStream,
    state: &Arc<State>,
    on_chunk: impl Fn() + Send + 'static,
) {
    let (sender, chunks) = channel();
    let state = Arc::clone(state);
    thread::spawn(move || receive(from, &sender, on_chunk));
    thread::spawn(move || deliver(to, &chunks, &state));
}

/// Ends with the connection, and lets the other end see that.
fn receive(mut from: TcpStream, chunks: &Sender<Chunk>, on_chunk: impl Fn()) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let came = Instant::now();
        on_chunk();
        if chunks.send((came, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, chunks: &Receiver<Chunk>, state: &State) {
    // Without it chunks are a little later, which the transit times show.
    let _ = rustix::thread::set_current_timer_slack(TIMER_SLACK);
    for (came, chunk) in chunks {
        thread::sleep(state.delay.saturating_sub(came.elapsed()));
        let transit = u64::try_from(came.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if to.write_all(&chunk).is_err() {
            break;
        }
        state.transit().saturating_record(transit);
    }
    // Whoever is gone already needs no end.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each chunk with the same bytes.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = peer.read(&mut buffer) {
                peer.write_all(&buffer[..count]).unwrap();
            }
        });
        address
    }

    #[test]
    fn a_round_trip_takes_both_delays_and_is_counted_once() {
        let delay = Duration::from_millis(20);
        let network = Network::before(echo(), delay).unwrap();
        let mut client = TcpStream::connect(network.address()).unwrap();
        for number in 1..=3 {
            let asked = Instant::now();
            client.write_all(b"abcd").unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"abcd");
            assert!(asked.elapsed() >= 2 * delay, "{:?}", asked.elapsed());
            assert_eq!(network.round_trips(), number);
        }
        let transit = Duration::from_nanos(network.median_transit_nanos());
        assert!(transit >= delay.mul_f64(0.99), "{transit:?}");
    }

    #[test]
    fn chunks_are_on_their_way_at_once() {
        let delay = Duration::from_millis(500);
        let network = Network::before(echo(), delay).unwrap();
        let mut client = TcpStream::connect(network.address()).unwrap();
        client.set_nodelay(true).unwrap();
        let asked = Instant::now();
        for _ in 0..20 {
            client.write_all(b"x").unwrap();
            // So that they are different chunks.
            thread::sleep(Duration::from_millis(5));
        }
        let mut answer = [0; 20];
        client.read_exact(&mut answer).unwrap();
        let time = asked.elapsed();
        // One after the other they would take ten seconds.
        assert!(time >= 2 * delay && time < 10 * delay, "{time:?}");
    }

    #[test]
    fn the_end_of_a_connection_is_handed_on() {
        let network = Network::before(echo(), Duration::from_millis(1)).unwrap();
        let mut client = TcpStream::connect(network.address()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
