//! The two references, which relay bytes without parsing events: nginx (N) and the bare relay (H).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::process::Process;

/// Starts nginx as one process without workers, so that the clock of one process covers all its work.
///
/// Buffering off, kept-alive connections on both sides, no access log: the fastest way in which nginx passes on
/// an event stream as it comes.
pub(super) fn start_nginx(
    listen: SocketAddr,
    upstream: SocketAddr,
    directory: &Path,
) -> anyhow::Result<Process> {
    let configuration = directory.join("nginx.conf");
    fs::write(
        &configuration,
        nginx_configuration(listen, upstream, directory),
    )?;
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(directory)
        .arg("-e")
        .arg("stderr")
        .arg("-c")
        .arg(&configuration);
    let mut process = Process::start("nginx", command, directory).context("is nginx installed?")?;
    process.wait_until_listening(listen)?;
    Ok(process)
}

/// Starts the bare relay that was built beside this program.
pub(super) fn start_bare_relay(
    listen: SocketAddr,
    upstream: SocketAddr,
    binaries: &Path,
    directory: &Path,
) -> anyhow::Result<Process> {
    let binary: PathBuf = binaries.join("minichat-bare-relay");
    let mut command = Command::new(binary);
    command.args([
        "--listen",
        &listen.to_string(),
        "--upstream",
        &upstream.to_string(),
    ]);
    let mut process = Process::start("bare-relay", command, directory)?;
    process.wait_until_listening(listen)?;
    Ok(process)
}

fn nginx_configuration(listen: SocketAddr, upstream: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  tcp_nodelay on;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  upstream provider {{ server {upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen {listen};
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}
