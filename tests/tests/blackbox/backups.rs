//! Backups of a database that is served from, and what is made of them elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minichat_tests::books::check_books;
use minichat_tests::child::{Process, job, job_run, signal, spawn, terminate};
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::disk::Disk;
use minichat_tests::harness::{Env, run};
use minichat_tests::manifest::Tenant;
use minichat_tests::on_each_database;
use minichat_tests::postgres_programs::shell;
use minichat_tests::scripted_provider::{Ending, Scenario, ScriptedProvider};
use minichat_tests::sse::EventStream;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::task::JoinHandle;
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_minichat-dataplane-under-test");
const PAGE: &str = include_str!("../../../docs/backup.md");
const RESTORE: &str = "pg_restore --exit-on-error --no-owner --dbname=";
const RUNNING: &str = "SELECT count(*) FROM chat_turns WHERE state = 'running'";
const CLIENTS: usize = 4;

async fn tenant(env: &Env) -> anyhow::Result<(ScriptedProvider, Tenant)> {
    let provider = ScriptedProvider::start().await?;
    let mut tenant = Tenant::new("acme", provider.addr);
    tenant.model("std")["providerModelId"] = json!("paced-ttft1-chunks4-interval1");
    env.write_manifest(&tenant.name, &tenant.manifest())?;
    Ok((provider, tenant))
}

/// Users who go on sending short messages.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    fn start(api: &Api, tenant: &Tenant) -> anyhow::Result<Self> {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..CLIENTS).map(|_| {
            let user = api.acting_as(tenant.id, Uuid::new_v4())?;
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            Ok(tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let chat = user.create_chat(Some("std")).await?;
                    user.say(&chat, "hello").await?.only("done")?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }))
        });
        let clients = clients.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            is_over,
            answered,
            clients,
        })
    }

    /// Waits until so many further messages were answered.
    async fn answers(&self, count: usize) -> anyhow::Result<()> {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        let waiting = async {
            while self.answered.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        answered.context("nothing is answered")
    }

    async fn end(self) -> anyhow::Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        Ok(())
    }
}

/// A turn that the provider does not end.
struct Open {
    user: Uuid,
    chat: String,
    request: String,
    stream: EventStream,
}

async fn open(
    api: &Api,
    (provider, tenant): &(ScriptedProvider, Tenant),
    user: Uuid,
) -> anyhow::Result<Open> {
    provider.push_scenario(Scenario {
        hold_before_end: true,
        ..Scenario::deltas(&["part"], Ending::Completed)
    });
    let api = api.acting_as(tenant.id, user)?;
    let chat = api.create_chat(Some("prem")).await?;
    let mut stream = api.open(&chat, &json!({"content": "hello"})).await?;
    let started = stream.expect("stream_started").await?;
    stream.expect("delta").await?;
    Ok(Open {
        user,
        chat,
        request: started.text("request_id").to_owned(),
        stream,
    })
}

/// The command, or what it says to run instead.
async fn back_up(database: &Database, file: &Path) -> anyhow::Result<()> {
    let to = file.to_str().context("a path")?;
    let made = job_run(job(BINARY, &["backup", "--to", to], &database.url())?).await?;
    if database.kind() == DatabaseKind::Sqlite {
        ensure!(made.status.success(), "{made:?}");
        return Ok(());
    }
    ensure!(!made.status.success(), "{made:?}");
    shell(made.stderr.lines().last().context("nothing is said")?).await
}

/// As the page says.
async fn restore(file: &Path, database: &Database) -> anyhow::Result<()> {
    match database {
        Database::Sqlite(path) => {
            fs::copy(file, path)?;
            Ok(())
        }
        Database::Postgres(database) => {
            ensure!(PAGE.contains(RESTORE));
            shell(&format!(
                "{RESTORE}'{}' '{}'",
                database.url(),
                file.display()
            ))
            .await
        }
    }
}

/// Makes the backup while turns are open and others begin and end; what was open.
async fn back_up_under_load(
    env: &Env,
    process: &Process,
    world: &(ScriptedProvider, Tenant),
    file: &Path,
) -> anyhow::Result<Vec<Open>> {
    let user = Uuid::new_v4();
    let mut held = Vec::new();
    for user in [user, user, Uuid::new_v4()] {
        held.push(open(&process.api, world, user).await?);
    }
    let load = Load::start(&process.api, &world.1)?;
    load.answers(2 * CLIENTS).await?;
    back_up(&env.database, file).await?;
    load.answers(CLIENTS).await?;
    load.end().await?;
    // Where they were, they go on.
    world.0.release(held.len());
    for turn in &mut held {
        turn.stream.expect("done").await?;
    }
    Ok(held)
}

/// What a user finds in the restored chat of a turn that was open, and can do there.
async fn check_restored(api: &Api, tenant: &Tenant, turn: &Open) -> anyhow::Result<()> {
    let user = api.acting_as(tenant.id, turn.user)?;
    let state = user.turn(&turn.chat, &turn.request).await?;
    assert_eq!(state["error_code"], "orphan_timeout", "{state}");
    assert_eq!(user.messages(&turn.chat).await?.len(), 1);
    user.say(&turn.chat, "again").await?.only("done")?;
    assert_eq!(user.messages(&turn.chat).await?.len(), 3);
    Ok(())
}

on_each_database! {
    /// D16, TURN-60, QUOTA-54, QUOTA-59: a backup is of one moment. What was open at it
    /// is ended where it is restored, and the books balance in both places.
    async fn a_backup_with_open_turns_is_restored_and_its_books_balance(env) {
        let world = tenant(&env).await?;
        let process = Process::serve(BINARY, &env, "").await?;
        let id = Uuid::new_v4();
        let user = process.api.acting_as(world.1.id, id)?;
        let chat = user.create_chat(None).await?;
        user.say(&chat, "PING").await?.only("done")?;
        let written = user.messages(&chat).await?;
        let file = env.file("backup");
        let held = back_up_under_load(&env, &process, &world, &file).await?;
        process.terminate()?;
        ensure!(process.ended().await?.success());
        check_books(&env.database).await?;

        let restored = env.another().await?;
        let database = restored.database.clone();
        restore(&file, &database).await?;
        let open = database.number(RUNNING).await?;
        ensure!(open >= i64::try_from(held.len())?, "{open} turns were open");
        database.age_turns("state = 'running'").await?;
        let run = job_run(job(BINARY, &["watchdog"], &database.url())?).await?;
        assert_eq!(run.reports[0]["finalized"], open, "{run:?}");
        check_books(&database).await?;

        let process = Process::serve(BINARY, &restored, "").await?;
        let there = process.api.acting_as(world.1.id, id)?;
        assert_eq!(there.messages(&chat).await?, written);
        for turn in &held {
            check_restored(&process.api, &world.1, turn).await?;
        }
        process.terminate()?;
        ensure!(process.ended().await?.success());
        check_books(&database).await?;
        database.remove().await?;
    }

    /// K8S-43: whatever a release before does with a schema that is newer, it says so,
    /// and changes nothing.
    async fn an_older_release_refuses_a_newer_schema_in_plain_words(env) {
        let (_provider, _tenant) = tenant(&env).await?;
        Process::serve(BINARY, &env, "").await?.kill().await?;
        let versions = "SELECT version FROM schema_migrations ORDER BY version";
        env.database.query("INSERT INTO schema_migrations (version) VALUES (999)").await?;
        let before = env.database.query(versions).await?;
        let url = env.database.url();
        let manifests = env.manifests().display().to_string();
        let variables = [
            ("MINICHAT_DATABASE_URL", &*url),
            ("MINICHAT_AUTH_MODE", "dev"),
            ("MINICHAT_AUTH_ALLOW_DEV", "true"),
            ("MINICHAT_SERVER_BIND_ADDR", "127.0.0.1:0"),
            ("MINICHAT_METRICS_BIND_ADDR", "127.0.0.1:0"),
        ];
        let commands: [&[&str]; 4] = [
            &["serve", "--manifests", &manifests],
            &["migrate"],
            &["watchdog"],
            &["tenants", "list"],
        ];
        for arguments in commands {
            let refused = job_run(spawn(BINARY, arguments, &variables)?).await?;
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
            for words in ["schema version 999", "a newer release", "restore a backup"] {
                assert!(refused.stderr.contains(words), "{arguments:?}: {}", refused.stderr);
            }
        }
        assert_eq!(env.database.query(versions).await?, before);
        // Whoever is in that state wants a copy of it.
        back_up(&env.database, &env.file("backup")).await?;
    }
}

/// Runs the backup of the database at `url`; its standard output may be a database.
async fn backup(url: &str, to: &Path) -> anyhow::Result<Output> {
    let to = to.to_str().context("a path")?;
    let variables = [("MINICHAT_DATABASE_URL", url)];
    let command = spawn(BINARY, &["backup", "--to", to], &variables)?;
    Ok(command.wait_with_output().await?)
}

/// What it says to a failed backup.
async fn refused(url: &str, to: &Path) -> anyhow::Result<String> {
    let output = backup(url, to).await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(output.stdout.is_empty(), "{output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

/// Names in a directory.
fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    let mut names: Vec<_> = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

async fn a_backup_is_a_new_file_for_its_owner_alone(env: Env) -> anyhow::Result<()> {
    let _world = tenant(&env).await?;
    let _process = Process::serve(BINARY, &env, "").await?;
    let url = env.database.url();
    let directory = env.file("backups");
    fs::create_dir(&directory)?;
    let file = directory.join("minichat.db");
    let made = backup(&url, &file).await?;
    ensure!(made.status.success(), "{made:?}");
    let said: Value = serde_json::from_slice(&made.stdout)?;
    let found = fs::metadata(&file)?;
    assert_eq!(said["job"], "backup");
    assert_eq!(said["bytes"], found.len());
    assert_eq!(said["file"], file.to_str().unwrap_or_default());
    let version = "SELECT max(version) FROM schema_migrations";
    assert_eq!(said["schema_version"], env.database.number(version).await?);
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(names(&directory)?, ["minichat.db"]);

    let before = fs::read(&file)?;
    let again = refused(&url, &file).await?;
    assert!(again.contains("exists already"), "{again}");
    assert_eq!(fs::read(&file)?, before);
    assert_eq!(names(&directory)?, ["minichat.db"]);
    let nowhere = refused(&url, &directory.join("none/minichat.db")).await?;
    assert!(nowhere.contains("there is no directory"), "{nowhere}");

    // Every table of the copy stands on the page.
    let copy = Database::Sqlite(file);
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    for table in copy.query(tables).await?.into_iter().flatten().flatten() {
        assert!(PAGE.contains(&format!("`{table}`")), "{table}");
    }
    Ok(())
}

/// What a crash leaves behind is in the log alone.
async fn a_backup_of_what_a_crash_left_is_whole(env: Env) -> anyhow::Result<()> {
    let (_provider, tenant) = tenant(&env).await?;
    let process = Process::serve(BINARY, &env, "").await?;
    let user = process.api.acting_as(tenant.id, Uuid::new_v4())?;
    let chat = user.create_chat(None).await?;
    user.say(&chat, "PING").await?.only("done")?;
    process.kill().await?;
    let file = env.file("minichat.backup");
    let made = backup(&env.database.url(), &file).await?;
    ensure!(made.status.success(), "{made:?}");
    check_books(&Database::Sqlite(file.clone())).await?;
    let turns = "SELECT count(*) FROM chat_turns";
    assert_eq!(Database::Sqlite(file).number(turns).await?, 1);
    Ok(())
}

async fn a_backup_that_fails_says_why_and_leaves_nothing(env: Env) -> anyhow::Result<()> {
    let _world = tenant(&env).await?;
    let process = Process::serve(BINARY, &env, "").await?;
    process.terminate()?;
    ensure!(process.ended().await?.success());
    let Database::Sqlite(database) = &env.database else {
        anyhow::bail!("SQLite alone");
    };
    let directory = env.file("backups");
    fs::create_dir(&directory)?;
    let file = directory.join("minichat.db");
    let (missing, foreign) = (env.file("none.db"), env.file("notes.txt"));
    fs::write(&foreign, "not a database\n".repeat(100))?;
    let empty = env.file("empty.db");
    fs::write(&empty, "")?;
    for (path, words) in [
        (&missing, "there is no database file"),
        (&foreign, "is no database of minichat"),
        (&empty, "is no database of minichat"),
    ] {
        let said = refused(&format!("sqlite://{}", path.display()), &file).await?;
        assert!(
            said.contains(words) && said.contains("database.url"),
            "{said}"
        );
    }
    assert!(!missing.exists());

    let page = "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema \
        WHERE name = 'policy_snapshots'";
    let found = env.database.query(page).await?.concat();
    let [root, size] = found.as_slice() else {
        anyhow::bail!("no such table: {found:?}");
    };
    let number = |text: &Option<String>| -> anyhow::Result<usize> {
        Ok(text.as_deref().context("null")?.parse()?)
    };
    let (root, size) = (number(root)?, number(size)?);
    let mut bytes = fs::read(database)?;
    bytes[(root - 1) * size..root * size].fill(0xa5);
    let damaged = env.file("damaged.db");
    fs::write(&damaged, bytes)?;
    let said = refused(&format!("sqlite://{}", damaged.display()), &file).await?;
    assert!(said.contains("the database cannot be copied"), "{said}");
    assert_eq!(names(&directory)?, Vec::<String>::new());
    Ok(())
}

async fn a_backup_can_be_piped_and_interrupted(env: Env) -> anyhow::Result<()> {
    let _world = tenant(&env).await?;
    let _process = Process::serve(BINARY, &env, "").await?;
    let url = env.database.url();
    let before = names(&env.file(""))?;
    let piped = backup(&url, Path::new("-")).await?;
    ensure!(piped.status.success(), "{piped:?}");
    let said: Value = serde_json::from_slice(&piped.stderr)?;
    assert_eq!(said["bytes"], piped.stdout.len());
    assert_eq!(names(&env.file(""))?, before);
    // More than a pipe holds.
    ensure!(piped.stdout.len() > 80_000, "{}", piped.stdout.len());
    let file = env.file("piped.db");
    fs::write(&file, piped.stdout)?;
    let chats = Database::Sqlite(file.clone())
        .number("SELECT count(*) FROM chats")
        .await?;
    assert_eq!(chats, 0);
    fs::remove_file(&file)?;

    let variables = [("MINICHAT_DATABASE_URL", &*url)];
    let mut stuck = spawn(BINARY, &["backup", "--to", "-"], &variables)?;
    let mut pipe = stuck.stdout.take().context("no stdout")?;
    pipe.read_u8().await?;
    assert_eq!(names(&env.file(""))?, before);
    terminate(&stuck)?;
    let ended = tokio::time::timeout(Duration::from_secs(30), stuck.wait_with_output());
    let ended = ended.await??;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    assert_eq!(names(&env.file(""))?, before);
    Ok(())
}

/// A backup that was stopped by SIGSTOP before the copy was complete.
async fn stopped_halfway(database: &Path, directory: &Path) -> anyhow::Result<Child> {
    let (whole, url) = (
        fs::metadata(database)?.len(),
        format!("sqlite://{}", database.display()),
    );
    let to = directory.join("minichat.db").display().to_string();
    let copied = || -> anyhow::Result<u64> {
        let workshops = fs::read_dir(directory)?.flatten();
        let copies = workshops.filter_map(|entry| fs::read_dir(entry.path()).ok());
        let sizes = copies.flatten().flatten();
        let sizes = sizes.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        Ok(sizes.sum())
    };
    // On a busy machine a copy may be complete before anybody looks.
    for _ in 0..20 {
        let variables = [("MINICHAT_DATABASE_URL", &*url)];
        let mut backup = spawn(BINARY, &["backup", "--to", &to], &variables)?;
        while copied()? == 0 && backup.try_wait()?.is_none() {
            std::thread::yield_now();
        }
        if signal(&backup, Signal::STOP).is_ok() && (1..whole).contains(&copied()?) {
            return Ok(backup);
        }
        backup.kill().await?;
        for name in names(directory)? {
            let left = directory.join(name);
            if left.is_dir() {
                fs::remove_dir_all(left)?;
            } else {
                fs::remove_file(left)?;
            }
        }
    }
    anyhow::bail!("every copy was complete")
}

/// Nothing in `directory` but `names`, and what was said.
async fn failed(backup: Child, directory: &Path, left: &[&str]) -> anyhow::Result<String> {
    signal(&backup, Signal::CONT)?;
    let ended = tokio::time::timeout(Duration::from_secs(30), backup.wait_with_output());
    let ended = ended.await??;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(ended.stdout.is_empty(), "{ended:?}");
    ensure!(names(directory)? == left, "{:?}", names(directory)?);
    Ok(String::from_utf8(ended.stderr)?)
}

async fn a_backup_that_is_cut_off_leaves_nothing(env: Env) -> anyhow::Result<()> {
    let _world = tenant(&env).await?;
    Process::serve(BINARY, &env, "").await?.kill().await?;
    let ballast = "CREATE TABLE ballast AS WITH RECURSIVE n (i) AS \
        (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 96) \
        SELECT randomblob(1 << 20) AS bytes FROM n";
    env.database.query(ballast).await?;
    env.database
        .query("PRAGMA wal_checkpoint(TRUNCATE)")
        .await?;
    let Database::Sqlite(database) = &env.database else {
        anyhow::bail!("SQLite alone");
    };
    let directory = env.file("backups");
    fs::create_dir(&directory)?;
    let backup = stopped_halfway(database, &directory).await?;
    terminate(&backup)?;
    let said = failed(backup, &directory, &[]).await?;
    assert!(said.contains("interrupted; no backup was made"), "{said}");

    let disk = Disk::mount(env.file("disk"), "256m")?;
    let backup = stopped_halfway(database, disk.path()).await?;
    disk.fill()?;
    let said = failed(backup, disk.path(), &["filler"]).await?;
    assert!(said.contains("the database cannot be copied"), "{said}");
    assert!(said.contains("disk is full"), "{said}");
    Ok(())
}

async fn no_password_is_said_by_a_backup(env: Env) -> anyhow::Result<()> {
    let (url, host) = (env.database.url(), "postgres@127.0.0.1");
    let secret = url.replace("postgres@", "postgres:open-sesame@");
    ensure!(secret != url, "{url} has no user");
    let said = refused(&secret, &env.file("minichat.dump")).await?;
    assert!(said.contains(host) && said.contains("PGPASSWORD"), "{said}");
    assert!(!said.contains("open-sesame"), "{said}");
    // Of the server itself, where the URL leads to a pooler.
    let variables = [
        ("MINICHAT_DATABASE_URL", "postgres://minichat@pooler/d"),
        (
            "MINICHAT_DATABASE_LISTEN_URL",
            "postgres://minichat@server/d",
        ),
    ];
    let command = spawn(BINARY, &["backup", "--to", "dump"], &variables)?;
    let said = command.wait_with_output().await?.stderr;
    let said = String::from_utf8(said)?;
    assert!(
        said.contains("@server/d") && !said.contains("pooler/d"),
        "{said}"
    );
    Ok(())
}

mod on_sqlite {
    use super::*;

    /// D16
    #[test]
    fn a_backup_is_a_new_file_for_its_owner_alone() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_backup_is_a_new_file_for_its_owner_alone,
        )
    }

    /// D16
    #[test]
    fn a_backup_of_what_a_crash_left_is_whole() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_backup_of_what_a_crash_left_is_whole,
        )
    }

    /// D16
    #[test]
    fn a_backup_that_fails_says_why_and_leaves_nothing() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_backup_that_fails_says_why_and_leaves_nothing,
        )
    }

    /// D16
    #[test]
    fn a_backup_that_is_cut_off_leaves_nothing() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_backup_that_is_cut_off_leaves_nothing,
        )
    }

    /// D16
    #[test]
    fn a_backup_can_be_piped_and_interrupted() -> anyhow::Result<()> {
        run(
            DatabaseKind::Sqlite,
            super::a_backup_can_be_piped_and_interrupted,
        )
    }
}

/// PLAT-165
#[test]
fn on_postgres_no_password_is_said_by_a_backup() -> anyhow::Result<()> {
    run(DatabaseKind::Postgres, no_password_is_said_by_a_backup)
}
