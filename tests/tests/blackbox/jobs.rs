//! Subcommands that a scheduler or a person runs.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use minichat_metrics::catalogue::OF_JOBS;
use minichat_metrics::{JobReport, Metrics as _, RecordingMetrics};
use minichat_tests::books::check_balanced;
use minichat_tests::child::{JobRun, Process, job, job_run, spawn, terminate};
use minichat_tests::database::Database;
use minichat_tests::harness::Env;
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
/// Contents of the file from an earlier run.
const EARLIER: char = 'x';
const ORPHANED: &str = "SELECT count(*) FROM chat_turns WHERE error_code = 'orphan_timeout'";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";

/// Leaves `count` running turns of a killed process.
async fn leave_behind(env: &Env, count: usize) -> anyhow::Result<()> {
    let provider = ScriptedProvider::start().await?;
    let tenant = Tenant::new("acme", provider.addr);
    env.write_manifest(&tenant.name, &tenant.manifest())?;
    let process = Process::serve(BINARY, env, "").await?;
    provider.push_scenario(Scenario::deltas(&["part"], Ending::Hang));
    let user = process.api.acting_as(tenant.id, Uuid::new_v4())?;
    let chat = user.create_chat(Some("prem")).await?;
    let mut stream = user.open(&chat, &json!({"content": "hello"})).await?;
    stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    process.kill().await?;
    if count > 1 {
        env.database.copy_running_turn(count - 1).await?;
    }
    Ok(())
}

/// Waits until the report at `path` counts a finalized turn.
async fn report_of_work(path: &Path) -> anyhow::Result<JobReport> {
    let reading = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            // It is from an earlier run or empty before the first row. What is read while
            // the report becomes longer may be the old one with the end of the new one.
            if !text.is_empty()
                && !text.starts_with(EARLIER)
                && let Ok(report) = JobReport::parse(&text)
                && report.count("orphan_finalized") > 0
            {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .context("no row was reported")
}

async fn watchdog(env: &Env, arguments: &[&str], file: &Path) -> anyhow::Result<JobRun> {
    job_run(start(env, arguments, file)?).await
}

fn start(env: &Env, arguments: &[&str], file: &Path) -> anyhow::Result<tokio::process::Child> {
    let arguments: Vec<_> = ["watchdog"].iter().chain(arguments).copied().collect();
    let variables = [
        ("MINICHAT_DATABASE_URL", env.database.url()),
        ("MINICHAT_JOB_REPORT_FILE", file.display().to_string()),
    ];
    let variables = variables
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    spawn(BINARY, &arguments, &variables)
}

on_each_database! {
    /// K8S-44, D1, D15: the work of a killed watchdog is in its report, except possibly that of the current row.
    async fn a_killed_watchdog_leaves_its_report(env) {
        leave_behind(&env, 1000).await?;
        env.database.age_turns("state = 'running'").await?;
        let file = env.manifests().with_file_name("termination-log");
        // The contents of an earlier run are not part of this report.
        std::fs::write(&file, String::from(EARLIER).repeat(10_000))?;
        let mut killed = start(&env, &[], &file)?;
        report_of_work(&file).await?;
        killed.kill().await?;
        let ended = env.database.number(ORPHANED).await?;
        assert!((1..1000).contains(&ended), "{ended} rows: not killed at work");
        let first = JobReport::parse(&std::fs::read_to_string(&file)?)?;
        let counted = i64::try_from(first.count("orphan_finalized"))?;
        assert!(counted == ended || counted + 1 == ended, "{counted} of {ended}");

        let rest = watchdog(&env, &["--once"], &file).await?;
        assert!(rest.status.success(), "{rest:?}");
        assert_eq!(rest.reports[0]["finalized"], 1000 - ended);
        check_balanced(&env.database).await?;
        let text = std::fs::read_to_string(&file)?;
        assert!(text.len() <= 4096, "{} bytes", text.len());
        let second = JobReport::parse(&text)?;
        assert_eq!(second.job, "watchdog");
        let operator = RecordingMetrics::default();
        operator.replay(&first);
        operator.replay(&second);
        let expected = u64::try_from(counted + 1000 - ended)?;
        for (family, labels) in [
            ("orphan_finalized", &["stale_progress"][..]),
            ("streams_aborted", &["orphan_timeout"]),
            ("stream_failed", &["main", "prem", "orphan_timeout"]),
        ] {
            assert_eq!(operator.counter(family, labels), expected, "{family}");
        }
        let latencies = operator.observations("finalization_latency_ms", &[]).len();
        assert_eq!(u64::try_from(latencies)?, expected);
        assert!(!operator.observations("orphan_scan_duration_seconds", &[]).is_empty());
    }

    /// K8S-42, TURN-58: it stops between rows and leaves the rest to the next run.
    async fn sigterm_ends_a_watchdog_between_rows(env) {
        leave_behind(&env, 1000).await?;
        env.database.age_turns("state = 'running'").await?;
        let file = env.manifests().with_file_name("termination-log");
        let stopped = start(&env, &["--interval", "1"], &file)?;
        report_of_work(&file).await?;
        terminate(&stopped)?;
        let stopped = job_run(stopped).await?;
        assert!(stopped.status.success(), "{stopped:?}");
        assert_eq!(stopped.reports.len(), 1, "{stopped:?}");
        let run = &stopped.reports[0];
        assert_eq!((&run["stopped"], &run["failed"]), (&json!(true), &json!(0)));
        let ended = env.database.number(ORPHANED).await?;
        assert_eq!(run["finalized"], ended);
        assert_eq!(env.database.number(RUNNING).await?, 1000 - ended);
        check_balanced(&env.database).await?;
        let report = JobReport::parse(&std::fs::read_to_string(&file)?)?;
        assert_eq!(i64::try_from(report.count("orphan_finalized"))?, ended);
        // The operator has a family for everything in the report.
        for family in report.families() {
            assert!(OF_JOBS.iter().any(|of_jobs| of_jobs.row().name == family), "{family}");
        }
    }

    /// K8S-42: a line for each run, until SIGTERM.
    async fn a_watchdog_with_an_interval_looks_again_and_again(env) {
        leave_behind(&env, 1).await?;
        let mut watchdog = job(BINARY, &["watchdog", "--interval", "1"], &env.database.url())?;
        let stdout = watchdog.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut finalized = Vec::new();
        while finalized.last() != Some(&json!(1)) {
            let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await??;
            let line: Value = serde_json::from_str(&line.context("it ended")?)?;
            if line.get("job").is_some() {
                finalized.push(line["finalized"].clone());
                if finalized.len() == 1 {
                    env.database.age_turns("state = 'running'").await?;
                }
            }
        }
        assert_eq!(finalized[0], 0);
        assert_eq!(env.database.number(ORPHANED).await?, 1);
        terminate(&watchdog)?;
        assert!(tokio::time::timeout(Duration::from_secs(30), watchdog.wait()).await??.success());
    }

    /// K8S-42, K8S-43: a scheduled watchdog may run before any process has served. This is not a failure.
    async fn in_a_database_that_nobody_has_served_a_watchdog_finds_nothing(env) {
        let file = env.manifests().with_file_name("termination-log");
        let run = watchdog(&env, &["--once"], &file).await?;
        assert!(run.status.success(), "{run:?}");
        assert_eq!(run.reports[0]["detected"], 0);
        assert_eq!(JobReport::parse(&std::fs::read_to_string(&file)?)?.job, "watchdog");
        if matches!(env.database, Database::Postgres(_)) {
            // A watchdog with an interval cannot know when the schema will exist.
            let refused = watchdog(&env, &["--interval", "1"], &file).await?;
            assert!(refused.stderr.contains("run the migration first"), "{refused:?}");
        }
    }

    /// K8S-43
    async fn serving_migrates_only_what_it_may(env) {
        let url = env.database.url();
        let manifests = env.manifests().display().to_string();
        let variables = [
            ("MINICHAT_DATABASE_URL", url.as_str()),
            ("MINICHAT_DATABASE_AUTO_MIGRATE", "false"),
            ("MINICHAT_SOURCE_MANIFESTS", &manifests),
            ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
            ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
            ("MINICHAT_AUTH_MODE", "trusted_headers"),
            ("MINICHAT_AUTH_TRUSTED_PEERS", "127.0.0.0/8"),
        ];
        if matches!(env.database, Database::Postgres(_)) {
            let refused = job_run(spawn(BINARY, &["serve"], &variables)?).await?;
            assert!(!refused.status.success());
            assert!(refused.stderr.contains("run the migration first"), "{}", refused.stderr);
            let migrated = job_run(job(BINARY, &["migrate"], &url)?).await?;
            assert!(migrated.status.success(), "{migrated:?}");
        }
        let process = Process::serve(BINARY, &env, "MINICHAT_DATABASE_AUTO_MIGRATE=false").await?;
        process.kill().await?;
        env.database.query("INSERT INTO schema_migrations (version) VALUES (999)").await?;
        let refused = job_run(spawn(BINARY, &["serve"], &variables)?).await?;
        assert!(!refused.status.success());
        assert!(refused.stderr.contains("the database has schema version 999"), "{}", refused.stderr);
    }

    /// D16: one process owns a file, and a second one is refused.
    async fn a_file_that_is_served_cannot_be_served_twice(env) {
        if matches!(env.database, Database::Postgres(_)) {
            return Ok(());
        }
        let _first = Process::serve(BINARY, &env, "").await?;
        let manifests = env.manifests().display().to_string();
        let url = env.database.url();
        let second = spawn(BINARY, &["serve", "--manifests", &manifests], &[
            ("MINICHAT_DATABASE_URL", &url),
            ("MINICHAT_AUTH_MODE", "dev"),
            ("MINICHAT_AUTH_ALLOW_DEV", "true"),
            ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
            ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
            // It waits as long as a draining process may take to end: 15 s.
            ("MINICHAT_DRAIN_MAX_SECS", "0"),
        ])?;
        let second = job_run(second).await?;
        assert!(!second.status.success());
        assert!(second.stderr.contains("another process has the database file"), "{}", second.stderr);
    }
}

/// The lines that `check-config` prints, and its exit code.
async fn check_config(
    manifests: &str,
    variables: &[(&str, &str)],
) -> anyhow::Result<(Vec<String>, Option<i32>)> {
    let arguments = ["check-config", "--manifests", manifests];
    let output = spawn(BINARY, &arguments, variables)?
        .wait_with_output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    Ok((
        text.lines().map(str::to_owned).collect(),
        output.status.code(),
    ))
}

/// D47, D48: private addresses are refused unless they are allowed, which is the default in development; certificate
/// files are checked.
#[tokio::test]
async fn check_config_says_which_addresses_may_not_be_called() -> anyhow::Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().display().to_string();
    let tenant = Tenant::new("acme", "127.0.0.1:1".parse()?);
    std::fs::write(directory.path().join("acme.yaml"), tenant.manifest())?;
    let laptop = [
        ("MINICHAT_AUTH_MODE", "trusted_headers"),
        ("MINICHAT_AUTH_TRUSTED_PEERS", "127.0.0.1"),
        ("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true"),
    ];
    let (lines, code) = check_config(&path, &laptop).await?;
    assert_eq!(code, Some(0), "{lines:#?}");
    let with = |key, value| [&laptop[..], &[(key, value)]].concat();
    let (lines, code) = check_config(&path, &with("MINICHAT_OUTBOUND_ALLOW_PRIVATE", "")).await?;
    assert_eq!(code, Some(1));
    assert_eq!(
        lines,
        [
            "error: acme.yaml, document 1, spec.providers[0].baseUrl: 127.0.0.1 is a loopback address, \
          which may not be called: write another one, or have `127.0.0.1` added to \
          outbound.allow_private (in the chart outbound.allowPrivate)"
        ]
    );
    let (lines, code) = check_config(&path, &with("MINICHAT_OUTBOUND_CA_FILE", &path)).await?;
    assert_eq!(code, Some(1));
    let expected = format!("error: outbound.ca_file: {path}: cannot be read");
    assert!(
        lines.iter().any(|line| line.starts_with(&expected)),
        "{lines:#?}"
    );
    Ok(())
}

/// QUOTA-23, D48, D49: sinks are checked as the operator checks them.
#[tokio::test]
async fn check_config_says_what_is_wrong_with_a_sink() -> anyhow::Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().display().to_string();
    let mut tenant = Tenant::new("acme", "127.0.0.1:1".parse()?);
    let secret = |key: &str| json!({"name": "acme-provider", "key": key});
    let webhook = |url: &str, members: Value| {
        let mut webhook = members;
        webhook["url"] = json!(url);
        json!({"type": "Webhook", "webhook": webhook})
    };
    let variables = [
        ("MINICHAT_AUTH_MODE", "dev"),
        ("MINICHAT_AUTH_ALLOW_DEV", "true"),
        ("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true"),
    ];
    let url = "https://billing.example.com/minichat";
    for (sink, expected) in [
        (
            webhook("http://169.254.169.254/x", json!({})),
            "spec.usageSink.webhook.url: 169.254.169.254 is a link-local address, which is never called",
        ),
        (
            webhook(url, json!({"signingSecretRef": secret("api-key")})),
            "spec.usageSink.webhook.signingSecretRef.key: the value of api-key in the Secret acme-provider has a signing secret that does not begin with whsec_",
        ),
        (
            webhook(url, json!({"secretRef": secret("none")})),
            "spec.usageSink.webhook.secretRef.key: the Secret acme-provider has no key none",
        ),
        (
            webhook(url, json!({"timeoutSeconds": 56})),
            "spec.usageSink.webhook.timeoutSeconds: ",
        ),
        (
            json!({"type": "Webhook"}),
            "spec.usageSink.webhook: a sink of type Webhook needs webhook",
        ),
    ] {
        tenant.spec()["usageSink"] = sink;
        std::fs::write(directory.path().join("acme.yaml"), tenant.manifest())?;
        let (lines, code) = check_config(&path, &variables).await?;
        assert_eq!(code, Some(1));
        let expected = format!("error: acme.yaml, document 1, {expected}");
        assert!(lines[0].starts_with(&expected), "{lines:#?}");
    }
    tenant.spec()["usageSink"] = webhook(url, json!({"secretRef": secret("api-key")}));
    std::fs::write(directory.path().join("acme.yaml"), tenant.manifest())?;
    let (lines, code) = check_config(&path, &variables).await?;
    assert_eq!(code, Some(0), "{lines:#?}");
    Ok(())
}

/// D43, K8S-1: faults of a database URL and of the files in it are reported,
/// without the password.
#[tokio::test]
async fn check_config_says_what_is_wrong_with_the_url_of_a_database() -> anyhow::Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().display().to_string();
    let tenant = Tenant::new("acme", "127.0.0.1:1".parse()?);
    std::fs::write(directory.path().join("acme.yaml"), tenant.manifest())?;
    for (url, listen_url, expected) in [
        (
            "sslmode=require",
            "sslmode=disable",
            "the configuration is valid",
        ),
        (
            "sslmod=require",
            "",
            "error: database.url: has a parameter that is not known",
        ),
        (
            "",
            "sslmode=allow",
            "error: database.listen_url: sslmode must be disable, prefer,",
        ),
        (
            "sslmode=verify-ca",
            "",
            "error: database.url: sslmode=verify-ca needs sslrootcert",
        ),
        (
            "sslmode=verify-full&sslrootcert=/nowhere.pem",
            "",
            "error: database.url: sslrootcert: /nowhere.pem: No such file",
        ),
        (
            "",
            "sslmode=require&sslcert=/nowhere.pem&sslkey=/nowhere.key",
            "error: database.listen_url: sslcert: /nowhere.pem: No such file",
        ),
    ] {
        let of = |query| format!("postgres://me:hunter2@127.0.0.1:1/none?{query}");
        let variables = [
            ("MINICHAT_AUTH_MODE", "dev"),
            ("MINICHAT_AUTH_ALLOW_DEV", "true"),
            ("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true"),
            ("MINICHAT_DATABASE_URL", &of(url)),
            ("MINICHAT_DATABASE_LISTEN_URL", &of(listen_url)),
        ];
        let (lines, code) = check_config(&path, &variables).await?;
        let is_valid = expected == "the configuration is valid";
        assert_eq!(code, Some(i32::from(!is_valid)), "{lines:#?}");
        let found = lines.iter().filter(|line| line.starts_with(expected));
        assert_eq!(found.count(), 1, "{expected} in {lines:#?}");
        assert!(
            !lines.iter().any(|line| line.contains("hunter2")),
            "{lines:#?}"
        );
    }
    Ok(())
}

/// K8S-1, PLAT-151, TURN-1: all faults of the process and its tenants at once,
/// with their locations; nothing is opened.
#[tokio::test]
async fn check_config_says_everything_that_a_start_would_refuse() -> anyhow::Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().display().to_string();
    let mut tenant = Tenant::new("acme", "127.0.0.1:1".parse()?);
    let valid = tenant.manifest();
    std::fs::write(directory.path().join("acme.yaml"), &valid)?;
    let good = [
        ("MINICHAT_AUTH_MODE", "dev"),
        ("MINICHAT_AUTH_ALLOW_DEV", "true"),
        ("MINICHAT_PROVIDER_HTTP_ALLOW_HTTP", "true"),
        ("MINICHAT_DATABASE_URL", "sqlite:///nowhere/at/all.db"),
    ];
    let (lines, code) = check_config(&path, &good).await?;
    assert_eq!(
        lines,
        ["tenant default/acme is valid", "the configuration is valid"]
    );
    assert_eq!(code, Some(0));

    tenant.model("std")["providerRef"] = json!("nobody");
    std::fs::write(directory.path().join("broken.yaml"), "kind: [")?;
    std::fs::write(directory.path().join("acme.yaml"), tenant.manifest())?;
    let bad = [
        ("MINICHAT_AUTH_MODE", "dev"),
        ("MINICHAT_STREAMING_SSE_CHANNEL_CAPACITY", "15"),
        ("MINICHAT_STREAMING_SSE_PING_INTERVAL_SECONDS", "61"),
        ("MINICHAT_ORPHAN_WATCHDOG_TIMEOUT_SECS", "90"),
    ];
    let (lines, code) = check_config(&path, &bad).await?;
    assert_eq!(code, Some(1));
    for expected in [
        "error: auth.allow_dev: ",
        "error: streaming.sse_channel_capacity: must be a whole number from 16 to 64",
        "error: streaming.sse_ping_interval_seconds: must be a whole number from 5 to 60",
        "error: acme.yaml, document 1, spec.models: model std has providerRef nobody, which must be ",
        "error: broken.yaml, document 1",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(expected)),
            "{expected} in {lines:#?}"
        );
    }

    std::fs::remove_file(directory.path().join("broken.yaml"))?;
    std::fs::write(directory.path().join("acme.yaml"), valid)?;
    let mut hasty = good.to_vec();
    hasty.push(("MINICHAT_ORPHAN_WATCHDOG_TIMEOUT_SECS", "90"));
    let (lines, code) = check_config(&path, &hasty).await?;
    assert_eq!(code, Some(1));
    let idle =
        "error: acme.yaml, document 1, spec.providers[0].timeouts.idleSeconds: must be at most 30";
    assert!(lines.len() == 1 && lines[0].starts_with(idle), "{lines:#?}");
    let (lines, code) = check_config("/nowhere/at/all", &good).await?;
    assert_eq!(code, Some(1));
    assert!(
        lines[0].contains("/nowhere/at/all cannot be read"),
        "{lines:#?}"
    );
    Ok(())
}
