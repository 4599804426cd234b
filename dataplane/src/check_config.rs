//! `minichat-dataplane check-config` (K8S-1): reports everything that a start
//! would refuse, without starting.

use std::io::{self, Write};
use std::path::Path;

use minichat_config::{Faults, ProcessConfig};

use crate::config_source::{self, Examined};
use crate::database;
use crate::serve;
use crate::settings::{NO_SOURCE, render_settings};

/// Checks the process configuration and the tenants of its source. Writes one
/// line per fault to `out`, and returns whether there is none.
pub fn check(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let (config, faults) = match ProcessConfig::examine(file, env) {
        Ok(examined) => examined,
        Err(Faults(faults)) => {
            for fault in &faults {
                writeln!(out, "error: {fault}")?;
            }
            return Ok(false);
        }
    };
    let mut errors: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
    if let Some(file) = &config.outbound.ca_file
        && let Err(error) = minichat_provider::check_ca_file(file)
    {
        errors.push(format!("outbound.ca_file: {}: {error}", file.display()));
    }
    if let Err(error) = serve::tls(&config) {
        errors.push(format!("{error:#}"));
    }
    if let Err(error) = database::settings(&config.database).check_files() {
        let fault = error.to_string();
        if !errors.contains(&fault) {
            errors.push(fault);
        }
    }
    let examined = if let Some(source) = &config.source {
        config_source::examine(source, &render_settings(&config))
    } else {
        errors.push(NO_SOURCE.to_owned());
        Examined::default()
    };
    errors.extend(examined.faults);
    for error in &errors {
        writeln!(out, "error: {error}")?;
    }
    for remark in &examined.remarks {
        writeln!(out, "warning: {remark}")?;
    }
    for tenant in &examined.tenants {
        writeln!(out, "tenant {tenant} is valid")?;
    }
    if errors.is_empty() {
        writeln!(out, "the configuration is valid")?;
    }
    Ok(errors.is_empty())
}
