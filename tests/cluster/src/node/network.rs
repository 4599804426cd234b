//! The node's network: a bridge for pods, and rules that let no packet of it leave the machine.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::api::{POD_RANGE, SERVICE_RANGE};
use crate::command;

/// The node's own address, on the bridge.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// Addresses of the node's pods.
pub const NODE_PODS: &str = "10.244.0.0/24";
pub(super) const BRIDGE: &str = "minichat0";

const TABLE: &str = "minichat-cluster";
/// Tables that kube-proxy leaves when it ends.
const PROXY_TABLES: [&str; 2] = ["ip", "ip6"];
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Call it before anything else is started. The rules come first, then the addresses.
pub(super) fn set_up() -> anyhow::Result<()> {
    command::run_with_input("nft", &["-f", "-"], &rules())?;
    command::run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    let address = format!("{NODE_ADDRESS}/24");
    command::run("ip", &["address", "add", &address, "dev", BRIDGE])?;
    command::run("ip", &["link", "set", BRIDGE, "up"])?;
    // Packets to a Service address without a Service go to the bridge instead of the default gateway.
    command::run("ip", &["route", "add", SERVICE_RANGE, "dev", BRIDGE])?;
    fs::write(FORWARDING, "1")?;
    Ok(())
}

/// Removes everything that exists. The route is removed with the bridge.
pub(super) fn remove() -> anyhow::Result<()> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        command::run("ip", &["link", "delete", BRIDGE])?;
    }
    for family in PROXY_TABLES {
        remove_table(family, "kube-proxy");
    }
    remove_table("inet", TABLE);
    Ok(())
}

/// If the table does not exist, nothing has to be done.
fn remove_table(family: &str, table: &str) {
    let _ = command::run("nft", &["delete", "table", family, table]);
}

/// Pods reach each other and this machine, this machine reaches Services, and nothing goes elsewhere.
fn rules() -> String {
    format!(
        r#"table inet {TABLE} {{
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname "{BRIDGE}" oifname != "{BRIDGE}" reject
    iifname != "{BRIDGE}" oifname "{BRIDGE}" reject
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    ip daddr {{ {POD_RANGE}, {SERVICE_RANGE} }} oifname != {{ "{BRIDGE}", "lo" }} reject
  }}
}}
"#
    )
}
