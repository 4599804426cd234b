//! Measures the operator with many tenants (K8S-17): its start, edits during and after the start, its writes and its
//! memory. `cargo xtask bench --scale` builds what it needs.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

mod memory;
mod report;
mod seen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use minichat_tests::database::DatabaseKind;
use minichat_tests::figures::quantiles;
use minichat_tests::manifest::Tenant;
use minichat_tests::site::{Programs, Site};

use report::{Goal, Report};
use seen::Seen;

const CREATED_AT_ONCE: usize = 16;
const STARTS_WITHIN: Duration = Duration::from_mins(4);
/// An edit that takes longer is counted as lost.
const LANDS_WITHIN: Duration = Duration::from_mins(1);
/// How long there must be no writes at the end.
const IDLE: Duration = Duration::from_secs(10);
/// Consecutive edits concern tenants that are far apart in the order of the start.
const STRIDE: usize = 7919;

#[derive(Parser)]
struct Arguments {
    /// Directory of `minichat-operator` and `minichat-dataplane`
    #[arg(long)]
    programs: PathBuf,
    /// `ChatTenants`, each with a `ChatQuota`
    #[arg(long, default_value_t = 1000)]
    tenants: usize,
    /// Edits of a `ChatQuota`, one after the other, after all tenants are ready
    #[arg(long, default_value_t = 100)]
    edits: usize,
    /// Secrets of 32 KiB without the label, beside which the operator's memory is measured first
    #[arg(long, default_value_t = 8000)]
    secrets: usize,
    /// Page whose section about the operator is replaced
    #[arg(long)]
    page: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let programs = Programs {
        operator: arguments.programs.join("minichat-operator"),
        dataplane: arguments.programs.join("minichat-dataplane"),
    };
    let mut report = Report::default();
    let memory = memory::beside_secrets(programs.clone(), arguments.secrets).await?;
    let secrets = arguments.secrets;
    report.memory(
        &format!("memory, one tenant beside {secrets} Secrets of 32 KiB that none may name"),
        &memory,
        64,
    );
    // These results are kept even if the rest fails on a busy machine.
    if let Some(page) = &arguments.page {
        report.write(page)?;
    }
    let site = Site::own(programs, DatabaseKind::Sqlite).await?;
    let _pod = site.pod().await?;
    let names = (0..arguments.tenants).map(|number| format!("tenant-{number:04}"));
    let tenants: Vec<Tenant> = names.map(|name| site.tenant(&name)).collect();
    stream::iter(&tenants)
        .map(|tenant| create(&site, tenant))
        .buffer_unordered(CREATED_AT_ONCE)
        .try_collect::<()>()
        .await?;
    println!(
        "{} ChatTenants with a ChatQuota each, one pod, times in ms from the write to what a watch shows",
        tenants.len()
    );
    let mut bench = Bench {
        seen: Seen::start(&site).await?,
        site: &site,
        tenants: &tenants,
        edited: 0,
    };

    let begun = Instant::now();
    let operator = site.operator().await?;
    // An edit before the operator has read the tenant belongs to the start.
    bench.seen.started(1, STARTS_WITHIN).await?;
    let mut during = Edits::default();
    while !bench.seen.are_ready(tenants.len()) && begun.elapsed() < STARTS_WITHIN {
        bench.edit(&mut during).await?;
    }
    let (rendered, ready) = bench.seen.started(tenants.len(), STARTS_WITHIN).await?;
    let count = tenants.len();
    let (rendered, ready) = ((rendered - begun).as_millis(), (ready - begun).as_millis());
    let started = format!("{rendered} ms rendered, {ready} ms ready");
    report.row(&format!("start with {count} tenants"), &started, None);
    during.report("edit of a ChatQuota meanwhile", &mut report);

    let before = bench.settled_writes().await?;
    let mut after = Edits::default();
    for _ in 0..arguments.edits {
        bench.edit(&mut after).await?;
    }
    after.report("edit of a ChatQuota afterwards", &mut report);
    let settled = bench.settled_writes().await?;
    let per_edit = ratio(settled - before, arguments.edits);
    let at_start = format!("{:.1}", ratio(before, count));
    report.row("writes for each tenant of the start", &at_start, None);
    let goal = Goal::new("≤ 6", per_edit <= 6.0);
    report.row(
        "writes for each edit",
        &format!("{per_edit:.1}"),
        Some(goal),
    );
    bench.print_writes()?;
    tokio::time::sleep(IDLE).await;
    let idle = bench.settled_writes().await? - settled;
    let what = format!("writes in {} s in which nothing happens", IDLE.as_secs());
    report.row(&what, &idle.to_string(), Some(Goal::new("0", idle == 0)));
    report.memory(
        &format!("memory, {count} tenants"),
        &operator.memory()?,
        150,
    );
    arguments.page.map_or(Ok(()), |page| report.write(&page))
}

async fn create(site: &Site, tenant: &Tenant) -> anyhow::Result<()> {
    site.apply(&site.quota(tenant, 100)).await?;
    site.apply_tenant(tenant).await
}

struct Bench<'a> {
    site: &'a Site,
    tenants: &'a [Tenant],
    seen: Seen,
    /// Number of edits so far.
    edited: usize,
}

impl Bench<'_> {
    /// Changes a limit of the next tenant, and waits for its Secret and its acknowledgement.
    async fn edit(&mut self, edits: &mut Edits) -> anyhow::Result<()> {
        let tenant = &self.tenants[self.edited * STRIDE % self.tenants.len()];
        self.edited += 1;
        let daily = 1_000 + u64::try_from(self.edited)?;
        let quota = self.site.quota(tenant, daily);
        let begun = Instant::now();
        self.site.apply(&quota).await?;
        let limit = daily * 1_000_000;
        let (rendered, programmed) = self.seen.landed(tenant, limit, LANDS_WITHIN).await?;
        edits.rendered.push(rendered - begun);
        edits.programmed.push(programmed - begun);
        Ok(())
    }

    /// Prints the operator's writes by kind.
    fn print_writes(&self) -> anyhow::Result<()> {
        let mut kinds = BTreeMap::<String, usize>::new();
        for write in self.site.operator_writes()? {
            let kind = format!("{} {} {}", write.verb, write.resource, write.subresource);
            *kinds.entry(kind.trim_end().to_owned()).or_default() += 1;
        }
        for (kind, count) in kinds {
            println!("  {count} × {kind}");
        }
        Ok(())
    }

    /// Number of the operator's writes, after it has stopped writing.
    async fn settled_writes(&self) -> anyhow::Result<usize> {
        let mut last = usize::MAX;
        loop {
            let writes = self.site.operator_writes()?.len();
            if writes == last {
                return Ok(writes);
            }
            last = writes;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

#[derive(Default)]
struct Edits {
    rendered: Vec<Duration>,
    programmed: Vec<Duration>,
}

impl Edits {
    fn report(self, what: &str, report: &mut Report) {
        let what = format!("{what} (n {})", self.programmed.len());
        let figures = |[p50, p90, p99, max]: [u128; 4]| {
            format!("{p50} ms p50, {p90} p90, {p99} p99, {max} at most")
        };
        let rendered = figures(quantiles(self.rendered));
        report.row(&format!("{what}, until the Secret"), &rendered, None);
        let programmed = quantiles(self.programmed);
        let goal = Goal::new("p99 ≤ 1000 ms", programmed[2] <= 1000);
        let what = format!("{what}, until Programmed");
        report.row(&what, &figures(programmed), Some(goal));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn ratio(some: usize, of: usize) -> f64 {
    some as f64 / of.max(1) as f64
}
