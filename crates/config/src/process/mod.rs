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
    Auth, Database, DatabaseUrl, Dev, Drain, IpNetwork, LogFormat, Logging, Metrics, ProcessConfig,
    ProviderHttp, RateLimit, Server, Streaming, Tracing, TrustedHeaders,
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
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| crate::Fault {
                path: path.display().to_string(),
                message: error.to_string(),
            })?,
        };
        Self::from_yaml(&text, env)
    }

    /// The same from the text of a file; an empty text is all defaults.
    pub fn from_yaml(
        yaml: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        load::load(yaml, env)
    }
}
