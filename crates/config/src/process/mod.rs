//! The settings of one process (PLAT-150 to PLAT-152), from a YAML file and
//! environment variables, which take precedence. Unknown keys are errors. All
//! errors are reported at once, each with its key.
//!
//! Every key is also an environment variable: the key in capitals, dots as
//! underscores, with the prefix `MINICHAT_`; `server.bind_addr` is
//! `MINICHAT_SERVER_BIND_ADDR`. The items of a list are separated by commas.
//!
//! To add a key: a row in `key::KEYS`, a field in `types`, a line in `load`.

mod key;
mod load;
mod outbox;
mod prefix;
pub mod reference;
pub mod schema;
pub mod types;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::fault::Faults;

pub use outbox::{Outbox, OutboxKind};
pub use types::{
    Allowed, Auth, CleanupConfig, CleanupWorker, Cors, Database, DatabaseUrl, Dev, Drain,
    IpNetwork, Job, JobConfig, LogFormat, Logging, Metrics, OrphanWatchdog, ProcessConfig,
    ProviderHttp, RateLimit, Retention, Server, Streaming, TenantSource, ThreadSummaryWorker,
    Thumbnails, Tracing, TrustedHeaders, Uploads,
};

impl ProcessConfig {
    /// Reads `file`, if given, and then the environment `env`; fills in defaults and
    /// checks the result.
    ///
    /// Pass `std::env::vars()`.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        Self::from_yaml(&text(file)?, env)
    }

    /// The same from the text of a file. An empty text means that all values have
    /// their defaults.
    pub fn from_yaml(
        yaml: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let (config, faults) = load::examine(yaml, env)?;
        faults.into_result(config)
    }

    /// The settings and all errors, from the same sources as [`load`](Self::load).
    /// Invalid values are replaced by their defaults, so that the caller can check
    /// what depends on the settings. `Err` if the file cannot be read at all.
    pub fn examine(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Faults), Faults> {
        load::examine(&text(file)?, env)
    }
}

impl JobConfig {
    /// Reads the same sources as [`ProcessConfig::load`], but only the sections of a
    /// job: a job has no callers, so it needs no `auth.mode`. Unknown keys are errors
    /// here too.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        load::load_job(&text(file)?, env)
    }
}

impl CleanupConfig {
    /// Reads the same sources as [`ProcessConfig::load`].
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        load::load_cleanup(&text(file)?, env)
    }
}

fn text(file: Option<&Path>) -> Result<String, Faults> {
    let Some(path) = file else {
        return Ok(String::new());
    };
    std::fs::read_to_string(path).map_err(|error| {
        Faults::from(crate::Fault {
            path: path.display().to_string(),
            message: error.to_string(),
        })
    })
}
