//! The settings of one process (PLAT-150 to PLAT-152): a YAML file and, over
//! it, environment variables. Unknown keys are errors; all faults are reported
//! at once, each with its key.
//!
//! Every key is also an environment variable: the key in capitals, dots as
//! underscores, with the prefix `MINICHAT_`; `server.bind_addr` is
//! `MINICHAT_SERVER_BIND_ADDR`. A list is written with commas.

mod key;
mod load;
mod prefix;
pub mod reference;
pub mod schema;
pub mod types;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::fault::Faults;

pub use types::{
    Allowed, Auth, Cors, Database, DatabaseUrl, Dev, Drain, IpNetwork, Job, JobConfig, LogFormat,
    Logging, Metrics, OrphanWatchdog, ProcessConfig, ProviderHttp, RateLimit, Server, Streaming,
    TenantSource, Tracing, TrustedHeaders,
};

impl ProcessConfig {
    /// Reads `file`, if one is given, then the environment `env` of the process,
    /// then fills in defaults and checks.
    ///
    /// Pass `std::env::vars()`.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        Self::from_yaml(&text(file)?, env)
    }

    /// The same from the text of a file; an empty text is all defaults.
    pub fn from_yaml(
        yaml: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let (config, faults) = load::examine(yaml, env)?;
        faults.into_result(config)
    }

    /// The same sources as [`load`](Self::load), with defaults in the place of
    /// what is faulty, so that what depends on the rest can be checked too.
    /// `Err` when the file cannot be read at all.
    pub fn examine(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Faults), Faults> {
        load::examine(&text(file)?, env)
    }
}

impl JobConfig {
    /// Reads the same sources as [`ProcessConfig::load`], but of a job's own
    /// sections alone: a job has no callers, so it needs no `auth.mode`. Keys
    /// that do not exist are errors here too.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        load::load_job(&text(file)?, env)
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
