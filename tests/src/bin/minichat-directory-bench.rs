//! Measures a directory with many manifests: the time from the start of the
//! process until all tenants are served, and from an edit of one file until it
//! takes effect (K8S-4, K8S-21). `cargo xtask bench --directory` builds what it
//! needs, optimised.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use minichat_tests::child::Process;
use minichat_tests::figures::{quantiles, replace_section};
use minichat_tests::manifest::Tenant;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Anything that takes longer is counted as lost.
const WITHIN: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(5);

#[derive(Parser)]
struct Arguments {
    /// Directory of the optimised programs.
    #[arg(long)]
    programs: PathBuf,
    /// Numbers of tenants.
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,10000")]
    tenants: Vec<usize>,
    /// Edits of one file each.
    #[arg(long, default_value_t = 20)]
    edits: usize,
    /// Page whose section about directories is replaced.
    #[arg(long)]
    page: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut table = String::from(
        "| Tenants, a file each | start until all are served | edit until it counts, p50 | p99 | RSS |\n|---|---|---|---|---|\n",
    );
    for tenants in &arguments.tenants {
        let figures = measure(&arguments, *tenants).await?;
        table.push_str(&figures);
        print!("{figures}");
    }
    if let Some(page) = &arguments.page {
        let body = format!(
            "Measured by `cargo xtask bench --directory`, on SQLite. Goals: 10,000 tenants are served within 5 s of the start, and\nan edit of one of them counts within 1 s (G22).\n\n{table}"
        );
        replace_section(page, "Directories", &body)?;
    }
    Ok(())
}

async fn measure(arguments: &Arguments, count: usize) -> anyhow::Result<String> {
    let directory = TempDir::with_prefix("minichat-directory-")?;
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    let mut tenants: Vec<_> = (0..count).map(tenant).collect();
    for tenant in &tenants {
        write(&manifests, tenant)?;
    }
    let program = arguments.programs.join("minichat-dataplane");
    let program = program.to_str().context("the path is no text")?;
    let database = format!(
        "sqlite://{}",
        directory.path().join("minichat.db").display()
    );
    let began = Instant::now();
    let process = Process::serve_manifests(program, &database, &manifests).await?;
    let started = began.elapsed();
    let served = revisions(&process).await?;
    ensure!(
        served.len() == count,
        "{} of {count} are served",
        served.len()
    );

    let mut edits = Vec::new();
    for edit in 0..arguments.edits {
        let at = edit * count / arguments.edits;
        let tenant = &mut tenants[at];
        let before = revision_of(&process, tenant).await?;
        tenant.spec()["displayName"] = json!(format!("edit {edit}"));
        write(&manifests, tenant)?;
        let began = Instant::now();
        while revision_of(&process, tenant).await? == before {
            ensure!(began.elapsed() < WITHIN, "the edit is lost");
            tokio::time::sleep(POLL).await;
        }
        edits.push(began.elapsed());
    }
    let [p50, _, p99, _] = quantiles(edits);
    let rss = process.resident_bytes()? >> 20;
    process.kill().await?;
    Ok(format!(
        "| {count} | {:.1} s | {p50} ms | {p99} ms | {rss} MiB |\n",
        started.as_secs_f64()
    ))
}

/// A tenant with a quota and a Secret, as people write them.
fn tenant(number: usize) -> Tenant {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let limits = (1_000_000, 10_000_000);
    Tenant::new(&format!("tenant-{number}"), address).with_limits(limits, limits)
}

fn write(directory: &Path, tenant: &Tenant) -> anyhow::Result<()> {
    let file = directory.join(format!("{}.yaml", tenant.name));
    Ok(std::fs::write(file, tenant.manifest())?)
}

async fn revisions(process: &Process) -> anyhow::Result<Vec<Value>> {
    let entries = process.admin.get_absolute("/configz").await?.expect(200)?;
    let entries = entries.as_array().context("no list")?;
    let active = entries.iter().filter(|entry| entry["state"] == "active");
    Ok(active.cloned().collect())
}

async fn revision_of(process: &Process, tenant: &Tenant) -> anyhow::Result<Value> {
    let id = tenant.id.to_string();
    let entries = revisions(process).await?;
    let entry = entries
        .iter()
        .find(|entry| entry["tenant_id"] == id.as_str());
    Ok(entry
        .map(|entry| entry["revision"].clone())
        .unwrap_or_default())
}
