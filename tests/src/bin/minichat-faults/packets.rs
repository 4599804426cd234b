//! A network that loses every packet of one server.

use std::process::Command;

use crate::server::done;

const TABLE: &str = "minichat_faults";

/// Packets to and from a port are dropped until this is.
pub(crate) struct DroppedPackets;

impl DroppedPackets {
    pub(crate) fn of(port: u16) -> anyhow::Result<Self> {
        let rules = format!(
            "table inet {TABLE} {{ chain input {{ type filter hook input priority 0; \
             tcp dport {port} drop; tcp sport {port} drop; }}; }}"
        );
        let mut nft = Command::new("nft");
        done(nft.arg(rules), "nft (which only root may use)")?;
        Ok(Self)
    }
}

impl Drop for DroppedPackets {
    fn drop(&mut self) {
        let delete = ["delete", "table", "inet", TABLE];
        let _ = Command::new("nft").args(delete).output();
    }
}
