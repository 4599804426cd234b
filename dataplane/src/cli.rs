//! The command line of `minichat-dataplane`: a subcommand for each role.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Uri};
use minichat_core::{NamespacedName, TenantId, UserId};
use minichat_dataplane::books::{Month, Output, TenantRef};
use minichat_dataplane::{ask, dead_letter};

#[derive(Parser)]
#[command(name = "minichat-dataplane", version, about = "Serves chat tenants.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve the tenants of one source.
    Serve {
        /// Process configuration (YAML). Every key can also be set by an
        /// environment variable: `MINICHAT_SERVER_BIND_ADDR` sets
        /// `server.bind_addr`.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        source: Source,
    },
    /// Report everything that `serve` would refuse with the same flags and
    /// variables, without starting. Exit code 1: something would be refused.
    CheckConfig {
        /// Process configuration (YAML).
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        source: Source,
    },
    /// Send one message to a running data plane and print the answer as it
    /// arrives. Exit code 1: the API refused it, or the answer is not complete.
    Ask {
        /// Base path of the API, such as `http://127.0.0.1:8087/mini-chat/v1`.
        #[arg(long, default_value = "http://127.0.0.1:8087/mini-chat/v1")]
        url: Uri,
        /// PEM file with authorities that may have signed the certificate of an
        /// `https` URL, in addition to the public ones.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// Header that identifies the caller, such as `X-User-Id: 0b7f…`; may
        /// be repeated.
        #[arg(long = "header", value_name = "HEADER", value_parser = ask::header)]
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The message to send.
        #[arg(default_value = "Hello")]
        message: String,
    },
    /// End the turns that crashed processes left running, and print one JSON
    /// line per run. Needs only the database. Exit code 1: a turn could not be
    /// ended, or the database could not serve; the log says why.
    Watchdog {
        /// Process configuration (YAML). Only `database`, `orphan_watchdog`,
        /// `job` and `logging` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Scan once (the default).
        #[arg(long, conflicts_with = "interval")]
        once: bool,
        /// Scan every N seconds until SIGTERM.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        interval: Option<u64>,
    },
    /// Delete the files and vector stores of deleted chats and attachments at
    /// their providers, and print one JSON line per pass. Takes the same
    /// configuration as `serve`. Exit code 1: the database could not serve, or
    /// the configuration is wrong. What a provider refuses is tried again by the
    /// next pass and is no failure. An `SQLite` database is cleaned up by `serve`.
    Cleanup {
        /// Process configuration (YAML), that of `serve`. `auth` is not read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        source: Source,
        /// Make one pass (the default).
        #[arg(long, conflicts_with = "interval")]
        once: bool,
        /// Make a pass every N seconds until SIGTERM.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        interval: Option<u64>,
        /// End a pass after N seconds. What is left waits for the next one. Must be
        /// more than `cleanup_worker.call_timeout_secs`.
        #[arg(long, value_name = "SECONDS", default_value = "240", value_parser = clap::value_parser!(u64).range(1..))]
        time_budget: u64,
    },
    /// Show or change the owner of a tenant id. An id, with every chat under
    /// it, belongs to the `ChatTenant` that was served under it first.
    Tenants {
        #[command(subcommand)]
        command: TenantsCommand,
    },
    /// Show what sinks refused, and decide what becomes of it. Exit code 1:
    /// something was not changed. An `SQLite` database cannot be opened while
    /// `serve` uses it; its admin listener shows the list, `/dead-letters`.
    DeadLetter {
        #[command(subcommand)]
        command: DeadLetterCommand,
    },
    /// Copy the `SQLite` database into one file, also while `serve` uses it. Of
    /// PostgreSQL, say how to call `pg_dump`. Exit code 1: nothing was made.
    Backup {
        /// Process configuration (YAML), of which `database` is read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// File to make, which must not exist; `-` is standard output.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Print what the users of a tenant spent in a month, and whether turns, usage
    /// events and quota rows agree. Reads one snapshot, also while `serve` uses the
    /// database, and changes nothing. Exit code 0: they agree; 1: they differ; 2: they
    /// could not be compared.
    Books {
        /// Process configuration (YAML), of which `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The tenant's id, or `namespace/name` of its `ChatTenant`.
        #[arg(long, value_name = "TENANT")]
        tenant: TenantRef,
        /// The month in UTC, such as 2026-11.
        #[arg(long, value_name = "YYYY-MM")]
        month: Month,
        /// `table`, `json`, `csv`, or `focus`: the columns of FOCUS 1.0.
        #[arg(long, value_name = "FORM", default_value = "table")]
        output: Output,
    },
    /// Erase a user: chats, messages, files, and the user's id in what was spent.
    /// Nothing brings them back. Prints one line of JSON. Files at providers are
    /// deleted by the clean-up; until then, and while an answer is being written, this
    /// command waits. Exit code 1: it is not finished; the clean-up goes on with it.
    /// An `SQLite` database cannot be opened while `serve` uses it; there, the user
    /// sends `DELETE /mini-chat/v1/me`.
    Erase {
        /// Process configuration (YAML). Only `database`, `outbox` and `logging` are
        /// read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The tenant's id.
        #[arg(long, value_name = "UUID")]
        tenant: TenantId,
        /// The user's id.
        #[arg(long, value_name = "UUID")]
        user: UserId,
        /// Seconds to wait for files and answers.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
    },
    /// Migrate the database to the schema of this release. Safe to run at any
    /// time, and by several processes at once.
    Migrate {
        /// Process configuration (YAML). Only `database` and `logging` are
        /// read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum TenantsCommand {
    /// Print every tenant that was served from the database: its owner, and
    /// when a process first and last took over its configuration.
    List {
        /// Process configuration (YAML). Only `database` is read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object per line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Transfer a tenant id, with every chat under it, to another `ChatTenant`,
    /// for example after renaming it. Exit code 1: nothing was changed.
    Transfer {
        /// Process configuration (YAML). Only `database` is read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The tenant's id.
        #[arg(long, value_name = "UUID")]
        tenant: TenantId,
        /// Its current owner, as `namespace/name`.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        from: NamespacedName,
        /// Its new owner, as `namespace/name`.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        to: NamespacedName,
    },
}

#[derive(Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// Print the dead letters that wait for a decision, without their payloads.
    List {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only this kind, such as `usage` or `audit`.
        #[arg(long)]
        kind: Option<String>,
        /// Only this tenant's.
        #[arg(long, value_name = "UUID")]
        tenant: Option<TenantId>,
        /// Only this status: `pending`, `reprocessing`, `resolved` or `discarded`.
        #[arg(long, conflicts_with = "all")]
        status: Option<String>,
        /// Whatever their status.
        #[arg(long)]
        all: bool,
        /// A table, or one JSON object per line.
        #[arg(long, value_enum, default_value = "table")]
        output: OutputForm,
    },
    /// Print one dead letter with its payload, without what users and models wrote.
    Show {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        id: i64,
    },
    /// Put dead letters that are pending at the end of their queues. Receivers get
    /// them with the same keys as before.
    Requeue {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Print which tenants have events that wait to be delivered, also of tenants
    /// that no process serves any more.
    Waiting {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A table, or one JSON object per line.
        #[arg(long, value_enum, default_value = "table")]
        output: OutputForm,
    },
    /// Make dead letters of all events of a tenant that wait, because no process
    /// serves it any more. Then they do not keep queues from being changed.
    Bury {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[arg(long, value_name = "UUID")]
        tenant: TenantId,
    },
    /// Give dead letters up that are pending. They stay in the database.
    Discard {
        /// Process configuration (YAML). Only `database` and `outbox` are read.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[arg(required = true)]
        ids: Vec<i64>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OutputForm {
    Table,
    Json,
}

impl From<OutputForm> for dead_letter::Output {
    fn from(form: OutputForm) -> Self {
        match form {
            OutputForm::Table => Self::Table,
            OutputForm::Json => Self::Json,
        }
    }
}

/// Where the tenants come from. Each flag is also a configuration key; the flag
/// takes precedence.
#[derive(Args)]
pub(crate) struct Source {
    /// Directory of `ChatTenant`, `ChatQuota` and `Secret` manifests to serve
    /// (`source.manifests`).
    #[arg(long, value_name = "DIR", group = "tenants")]
    manifests: Option<String>,
    /// Directory of rendered tenants to serve: a mounted Secret, or one
    /// subdirectory or file per tenant (`source.directory`).
    #[arg(long, value_name = "DIR", group = "tenants")]
    directory: Option<String>,
    /// Pool whose rendered tenants to serve, watched in the cluster
    /// (`source.pool`).
    #[arg(long, value_name = "NAME", group = "tenants")]
    pool: Option<String>,
    /// Namespace of the pool. Default: the process's own (`source.namespace`).
    #[arg(long, value_name = "NAMESPACE", conflicts_with_all = ["manifests", "directory"])]
    namespace: Option<String>,
    /// Kubeconfig file of the cluster. Default: found from the environment
    /// (`source.kubeconfig`).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifests", "directory"])]
    kubeconfig: Option<String>,
}

impl Source {
    /// The flags, as the environment variables that set the same keys.
    pub(crate) fn into_variables(self) -> impl Iterator<Item = (String, String)> {
        let flags = [
            ("MANIFESTS", self.manifests),
            ("DIRECTORY", self.directory),
            ("POOL", self.pool),
            ("NAMESPACE", self.namespace),
            ("KUBECONFIG", self.kubeconfig),
        ];
        flags
            .into_iter()
            .filter_map(|(key, value)| Some((format!("MINICHAT_SOURCE_{key}"), value?)))
    }
}
