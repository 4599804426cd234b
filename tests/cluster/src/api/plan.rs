//! The settings of an instance that survive a stop and a start: its ports and its network.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const FILE: &str = "plan.json";

/// First address of the range of Services: the API server's own Service.
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// From where the API server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    /// From this machine only.
    Loopback,
    /// Also from pods, at the address of the node.
    Node(Ipv4Addr),
}

/// Written to `plan.json` of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) network: Network,
    pub(crate) api_server_port: u16,
    pub(crate) etcd_port: u16,
    pub(crate) etcd_peer_port: u16,
}

impl Plan {
    /// With ports that are free now.
    pub(crate) fn new(network: Network) -> anyhow::Result<Self> {
        // All are open at the same time, so that they differ.
        let listeners = [free()?, free()?, free()?];
        let [api_server_port, etcd_port, etcd_peer_port] = [
            listeners[0].local_addr()?.port(),
            listeners[1].local_addr()?.port(),
            listeners[2].local_addr()?.port(),
        ];
        Ok(Self {
            network,
            api_server_port,
            etcd_port,
            etcd_peer_port,
        })
    }

    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join(FILE);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("no cluster in {}", directory.display()))?;
        serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))
    }

    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        fs::write(directory.join(FILE), serde_json::to_string(self)?)?;
        Ok(())
    }

    /// URL of the API server on this machine.
    pub(crate) fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_server_port)
    }

    pub(crate) fn server_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), FIRST_SERVICE.into()];
        if let Network::Node(address) = self.network {
            addresses.push(address.into());
        }
        addresses
    }
}

fn free() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind("127.0.0.1:0")?)
}
