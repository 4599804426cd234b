//! What uploads cost: the memory of the data plane while ten clients upload at once, and the latency of the streams
//! beside them.
//!
//! Each kind of load is measured on a data plane that was started for it, on `SQLite`. Its provider counts the bytes
//! of files and drops them, in a process of its own. The streams beside the uploads are compared with the same streams
//! before or after them, on the same process. The clients that upload are threads, so that they do not delay the
//! thread that reads the streams.

mod client;
mod file;
mod report;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};

use crate::cpu::{forget_peak_rss, process_cpu_micros, process_peak_rss_bytes, process_rss_bytes};
use crate::interrupt;
use crate::load::{self, Connection, Plan, Reading};
use crate::round::{as_f64, quantile_micros, runtime};
use crate::subject::{Fleet, Pace, Running, Setup, Subject};
use client::Sent;
use file::File;

pub use report::{goals, section};

/// Clients that upload at once: as many as a process serves by default.
const CLIENTS: usize = 10;
/// Streams beside them.
const STREAMS: usize = 20;
/// Time between the starts of two streams. It is no multiple of the time between two chunks, so that the chunks of all
/// streams do not come at once.
const STREAM_START: Duration = Duration::from_millis(51);
/// How long a client takes for its files, unless it hurries. The streams end a moment before.
const UPLOADING: Duration = Duration::from_secs(8);

/// What is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text of 25 MiB by each client, within eight seconds.
    Documents,
    /// Five pictures of 5 MB by each client, one after the other, within eight seconds.
    Images,
    /// Three texts of 25 MiB by each client, one after the other, as fast as they are taken.
    Rush,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Documents, Self::Images, Self::Rush];

    const fn files(self) -> usize {
        match self {
            Self::Documents => 1,
            Self::Images => 5,
            Self::Rush => 3,
        }
    }

    /// How long a client takes for all its files.
    const fn duration(self) -> Option<Duration> {
        match self {
            Self::Documents | Self::Images => Some(UPLOADING),
            Self::Rush => None,
        }
    }

    const fn streams_per_client(self) -> usize {
        match self {
            Self::Documents | Self::Images => 3,
            Self::Rush => 1,
        }
    }

    fn file(self) -> anyhow::Result<File> {
        Ok(match self {
            Self::Documents | Self::Rush => file::document(),
            Self::Images => file::image()?,
        })
    }
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// What was uploaded.
    pub kind: Kind,
    /// Files that were stored.
    pub files: usize,
    /// Files that have a thumbnail.
    pub thumbnails: usize,
    /// Until the last file was stored.
    pub seconds: f64,
    /// Resident memory of the data plane at its peak, minus that before the uploads, in bytes.
    pub growth_bytes: f64,
    /// Latency of a chunk while nothing is uploaded, in microseconds.
    pub quiet_p99: f64,
    /// The same beside the uploads.
    pub p99: f64,
    /// Processor time per second of the uploads, in percent of a core.
    pub dataplane_percent: f64,
    /// The same of the provider.
    pub provider_percent: f64,
    /// The same of this process.
    pub generator_percent: f64,
}

/// Measures one kind of load. The streams without uploads come first in odd rounds, and last in even ones.
pub fn measure(round: u32, kind: Kind, setup: &Setup) -> anyhow::Result<Figures> {
    let fleet = Fleet::start(setup)?;
    let of = |subject| fleet.running().iter().find(|it| it.subject == subject);
    let scene = Scene {
        dataplane: of(Subject::Sqlite).context("there is no data plane")?,
        provider: of(Subject::Direct).context("there is no provider")?,
    };
    // Connections, caches and prepared statements exist before anything is measured.
    scene.streams(1)?;
    let first = if round.is_multiple_of(2) {
        None
    } else {
        Some(scene.streams(kind.streams_per_client())?)
    };
    let loaded = scene.upload(kind)?;
    let quiet = match first {
        Some(quiet) => quiet,
        None => scene.streams(kind.streams_per_client())?,
    };
    Ok(Figures {
        quiet_p99: quantile_micros(&quiet.chunk, 0.99),
        ..loaded
    })
}

/// The processes that take part.
struct Scene<'a> {
    dataplane: &'a Running,
    provider: &'a Running,
}

impl Scene<'_> {
    /// Streams beside which nothing happens.
    fn streams(&self, per_client: usize) -> anyhow::Result<Reading> {
        let runtime = runtime()?;
        let plan = runtime.block_on(self.plan(per_client))?;
        let reading = runtime.block_on(load::run(plan))?;
        interrupt::check()?;
        reading.ensure_faithful()?;
        Ok(reading)
    }

    /// Streams beside uploads; `quiet_p99` is not known yet.
    fn upload(&self, kind: Kind) -> anyhow::Result<Figures> {
        let runtime = runtime()?;
        let (target, file) = (self.dataplane.address(), kind.file()?);
        let plan = runtime.block_on(self.plan(kind.streams_per_client()))?;
        let places = runtime.block_on(self.dataplane.prepare_uploads(CLIENTS))?;
        let dropped = runtime.block_on(dropped_bytes(self.provider.address()))?;
        let pid = self.dataplane.pid();
        let rss = process_rss_bytes(pid)?;
        forget_peak_rss(pid)?;
        let cpu = self.cpu_micros()?;
        let (reading, sent) = thread::scope(|scope| {
            let clients: Vec<_> = places
                .iter()
                .map(|place| {
                    let file = &file;
                    scope.spawn(move || client::send(target, place, file, kind))
                })
                .collect();
            let reading = runtime.block_on(load::run(plan));
            let sent: anyhow::Result<Vec<Sent>> = clients
                .into_iter()
                .map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
                .collect();
            anyhow::Ok((reading?, sent?))
        })?;
        interrupt::check()?;
        let cpu_after = self.cpu_micros()?;
        let growth = process_peak_rss_bytes(pid)?.saturating_sub(rss);
        reading.ensure_faithful()?;
        let dropped = runtime.block_on(dropped_bytes(self.provider.address()))? - dropped;
        let files = CLIENTS * kind.files();
        ensure!(
            dropped >= (files * file.content.len()) as u64,
            "the provider has read only {dropped} bytes"
        );
        let seconds = sent.iter().map(|it| it.elapsed.as_secs_f64());
        let seconds = seconds.fold(0.0, f64::max);
        let percent = |of: usize| as_f64(cpu_after[of] - cpu[of]) / 1e4 / seconds;
        Ok(Figures {
            kind,
            files,
            thumbnails: sent.iter().map(|it| it.thumbnails).sum(),
            seconds,
            growth_bytes: as_f64(growth),
            quiet_p99: f64::NAN,
            p99: quantile_micros(&reading.chunk, 0.99),
            dataplane_percent: percent(0),
            provider_percent: percent(1),
            generator_percent: percent(2),
        })
    }

    async fn plan(&self, per_client: usize) -> anyhow::Result<Plan> {
        let (pace, streams) = (&Pace::STEADY, STREAMS * per_client);
        Ok(Plan {
            target: self.dataplane.address(),
            clients: STREAMS,
            ramp: STREAM_START * u32::try_from(STREAMS)?,
            requests: self
                .dataplane
                .prepare_streams(pace, streams, STREAMS)
                .await?,
            expected_chunks: pace.chunks,
        })
    }

    /// Of the data plane, of the provider and of this process.
    fn cpu_micros(&self) -> anyhow::Result<[u64; 3]> {
        Ok([
            process_cpu_micros(self.dataplane.pid())?,
            process_cpu_micros(self.provider.pid())?,
            process_cpu_micros(std::process::id())?,
        ])
    }
}

/// Bytes of files that the provider has read.
async fn dropped_bytes(provider: SocketAddr) -> anyhow::Result<u64> {
    let request = format!("GET /_control/stats HTTP/1.1\r\nhost: {provider}\r\n\r\n");
    let mut body = Vec::new();
    Connection::new(provider)
        .exchange(request.as_bytes(), |bytes, _| body.extend_from_slice(bytes))
        .await?;
    let stats: serde_json::Value = serde_json::from_slice(&body)?;
    let bytes = stats["bytes_dropped"].as_u64();
    bytes.context("the provider does not count the bytes of files")
}
