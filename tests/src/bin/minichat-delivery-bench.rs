//! Measures how long a change of a manifest takes to reach every pod of a pool (K8S-24). `cargo xtask bench --cluster`
//! starts what it needs.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use minichat_tests::client::Api;
use minichat_tests::figures::{quantiles, verdict};
use minichat_tests::pool::PostgresPool;
use tokio::task::JoinSet;
use uuid::Uuid;

/// A change that takes longer is counted as lost.
const LANDS_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

#[derive(Parser)]
struct Arguments {
    /// Pods of the pool.
    #[arg(long, default_value_t = 3)]
    pods: usize,
    /// Streams that stay open during the measurement.
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// Changes of a limit.
    #[arg(long, default_value_t = 100)]
    edits: u16,
    /// New tenants.
    #[arg(long, default_value_t = 10)]
    tenants: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let pool = PostgresPool::start("bench", arguments.pods).await?;
    println!(
        "{} pods on PostgreSQL, {} open streams, times in ms from the write to the API server",
        arguments.pods, arguments.streams
    );
    let new = admissions(&pool, arguments.tenants)?;
    report(
        "kubectl apply of a ChatTenant until kubectl wait sees it Ready",
        new,
        (None, 1000),
    );

    let (streams, answers) = pool.open(arguments.streams).await?;
    let landed = edits(&pool, arguments.edits).await?;
    let open = pool.sum("mini_chat_active_streams").await?;
    let mut exact = 0;
    for answered in pool.release(streams).await? {
        exact += usize::from(answers.contains(&answered.events.answer()));
    }
    report(
        "edit of a ChatQuota until the next request on every pod sees it",
        landed,
        (Some(200), 1000),
    );
    println!(
        "streams: {open} of {} open after the edits, {exact} answers exact",
        arguments.streams
    );
    pool.remove().await
}

/// Applies tenants one after the other.
fn admissions(pool: &PostgresPool, count: u16) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..count {
        let tenant = pool.installation.tenant(&format!("tenant-{number}"));
        for object in &tenant.others {
            pool.installation.apply(object)?;
        }
        let started = Instant::now();
        // `kubectl apply`, as people run it; its own time is included.
        pool.installation.apply(&tenant.resource)?;
        pool.installation.await_ready(&tenant.name)?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Changes the daily limit repeatedly. Each time ends when the slowest pod enforces the limit.
async fn edits(pool: &PostgresPool, count: u16) -> anyhow::Result<Vec<Duration>> {
    let user = Uuid::new_v4();
    let mut callers = Vec::new();
    for pod in &pool.pods {
        let address = (pod.address, 8087).into();
        callers.push(pool.installation.gateway(address, pool.tenant.id, user)?);
    }
    let mut times = Vec::new();
    for number in 1..=i64::from(count) {
        let limit = 2_000_000_000_000 + number;
        let started = Instant::now();
        let mut watchers = JoinSet::new();
        for caller in callers.clone() {
            watchers.spawn(async move { await_limit(&caller, limit, started).await });
        }
        pool.limit(limit).await?;
        let mut slowest = Duration::ZERO;
        while let Some(seen) = watchers.join_next().await {
            slowest = slowest.max(seen??);
        }
        times.push(slowest);
    }
    Ok(times)
}

/// Returns when the first request sees the limit.
async fn await_limit(caller: &Api, limit: i64, started: Instant) -> anyhow::Result<Duration> {
    loop {
        let requested = Instant::now();
        let quota = caller.get("/quota/status").await?.expect(200)?;
        let tiers = quota["tiers"].as_array().context("no tiers")?;
        let periods = tiers.iter().filter_map(|tier| tier["periods"].as_array());
        if periods
            .flatten()
            .any(|period| period["limit_credits_micro"] == limit)
        {
            return Ok(requested.duration_since(started));
        }
        ensure!(started.elapsed() < LANDS_WITHIN, "an edit never landed");
        tokio::time::sleep(POLL).await;
    }
}

/// Prints the quantiles, and whether p50 and p99 are below their goals in milliseconds.
fn report(what: &str, times: Vec<Duration>, (p50_bar, p99_bar): (Option<u128>, u128)) {
    let count = times.len();
    let [p50, p90, p99, max] = quantiles(times);
    let is_met = p50_bar.is_none_or(|bar| p50 <= bar) && p99 <= p99_bar;
    let bars = match p50_bar {
        Some(bar) => format!("p50 {bar}, p99 {p99_bar}"),
        None => format!("p99 {p99_bar}"),
    };
    println!(
        "{what}: p50 {p50}, p90 {p90}, p99 {p99}, max {max} (n {count}; goal {bars}: {})",
        verdict(is_met)
    );
}
