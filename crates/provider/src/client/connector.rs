//! Opens a connection to an origin: checks whether its address may be called
//! (D48), chooses the way (D47), and verifies the server's identity.
//! A name is resolved once. The connector checks the resolved addresses and
//! connects to one of these, so that a second DNS answer cannot lead elsewhere.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use minichat_config::outbound::{AllowPrivate, Refusal, carried, literal};
use minichat_core::TenantId;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::ClientSettings;
use super::lookup::Lookups;
use super::origin::Origin;
use super::proxy::{Proxies, Proxy, ProxyRefusal, Tunnel};
use super::tls::Tls;
use super::transport::Transport;

/// Who chose the address that is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ChosenBy {
    /// A tenant's manifest. The address rules apply, and the tenant's lookups have
    /// their own room.
    Tenant(TenantId),
    /// The process's own configuration. Its author may call any address.
    Process,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The address may not be called; nothing was sent to it.
    Refused(Refusal),
    /// The proxy refused the tunnel.
    Proxy(ProxyRefusal),
    Io(io::Error),
    TimedOut,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Proxy(refusal) => refusal.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::TimedOut => f.write_str("it took too long"),
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Opens all outgoing connections.
pub(super) struct Connector {
    lookups: Lookups,
    tls: Tls,
    allow_private: AllowPrivate,
    /// Ports at which this process listens.
    own_ports: Vec<u16>,
    proxies: Proxies,
    /// Replaces the network in simulations.
    #[cfg(feature = "testing")]
    memory: Option<crate::testing::Dial>,
}

impl Connector {
    pub(super) fn new(settings: &ClientSettings) -> Self {
        let outbound = &settings.outbound;
        Self {
            lookups: Lookups::default(),
            tls: Tls::new(outbound.ca_file.clone()),
            allow_private: outbound.allow_private.clone(),
            own_ports: settings.own_ports.clone(),
            proxies: Proxies::new(&outbound.proxies),
            #[cfg(feature = "testing")]
            memory: None,
        }
    }

    #[cfg(feature = "testing")]
    pub(super) fn in_memory(settings: &ClientSettings, dial: crate::testing::Dial) -> Self {
        Self {
            memory: Some(dial),
            ..Self::new(settings)
        }
    }

    /// Connects to `origin`, with TLS if its scheme requires it.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        chosen_by: ChosenBy,
    ) -> Result<Transport, ConnectError> {
        #[cfg(feature = "testing")]
        if let Some(dial) = &self.memory {
            return Ok(dial().await.map(Transport::Memory)?);
        }
        if matches!(chosen_by, ChosenBy::Tenant(_)) {
            self.check_host(origin)?;
        }
        let Some(proxy) = self.proxies.of(origin) else {
            let tcp = self.dial(origin, chosen_by).await?;
            if !origin.is_tls {
                return Ok(Transport::Plain(tcp));
            }
            let tls = self.tls.connect(server_name(origin)?, tcp).await?;
            return Ok(Transport::Tls(Box::new(tls)));
        };
        let tunnel = self.tunnel(&proxy, origin).await?;
        if !origin.is_tls {
            return Ok(Transport::Tunnel(Box::new(tunnel)));
        }
        let tls = self.tls.connect(server_name(origin)?, tunnel).await?;
        Ok(Transport::TlsTunnel(Box::new(tls)))
    }

    /// Checks the host as it is written. If a proxy resolves the name, nothing
    /// else can be checked.
    fn check_host(&self, origin: &Origin) -> Result<(), Refusal> {
        self.allow_private.check_host(&origin.host)?;
        match literal(&origin.host) {
            Some(address) => self.check_own(origin, address),
            None => Ok(()),
        }
    }

    fn check_own(&self, origin: &Origin, address: IpAddr) -> Result<(), Refusal> {
        let is_own = self.own_ports.contains(&origin.port) && is_of_this_host(address);
        let refuse = || Refusal::own_listener(&origin.host, address, origin.port);
        (!is_own).then_some(()).ok_or_else(refuse)
    }

    /// Resolves the name, keeps the addresses that may be called, and connects
    /// to one of them. If none is left, the first refusal is returned.
    async fn dial(&self, origin: &Origin, chosen_by: ChosenBy) -> Result<TcpStream, ConnectError> {
        let found = self
            .lookups
            .addresses(origin.bare_host(), origin.port, chosen_by)
            .await?;
        if chosen_by == ChosenBy::Process {
            return Ok(connect(&found).await?);
        }
        let mut allowed = Vec::with_capacity(found.len());
        let mut refused = None;
        for address in found {
            let ip = address.ip();
            let checked = self.allow_private.check_address(&origin.host, ip);
            match checked.and_then(|()| self.check_own(origin, ip)) {
                Ok(()) => allowed.push(address),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        match refused {
            Some(refusal) if allowed.is_empty() => Err(refusal.into()),
            _ => Ok(connect(&allowed).await?),
        }
    }

    async fn tunnel(&self, proxy: &Proxy, origin: &Origin) -> Result<Tunnel, ConnectError> {
        let way = proxy.origin();
        let unreachable = |error| ConnectError::Proxy(proxy.unreachable(error, origin));
        let found = self
            .lookups
            .addresses(way.bare_host(), way.port, ChosenBy::Process)
            .await;
        let tcp = connect(&found.map_err(unreachable)?).await;
        let tcp = tcp.map_err(unreachable)?;
        let opened = if way.is_tls {
            let name = server_name(way).map_err(unreachable)?;
            let tls = self.tls.connect(name, tcp).await.map_err(unreachable)?;
            proxy.open(tls, origin).await
        } else {
            proxy.open(tcp, origin).await
        };
        opened.map_err(ConnectError::Proxy)
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(addresses).await?;
    // Without it, a small request waits about 40 ms for the acknowledgement of
    // the previous one.
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn server_name(origin: &Origin) -> io::Result<ServerName<'static>> {
    ServerName::try_from(origin.bare_host().to_owned()).map_err(io::Error::other)
}

/// Whether `address` belongs to this host: a socket that connects to it gets
/// the same local address. Nothing is sent.
fn is_of_this_host(address: IpAddr) -> bool {
    let address = carried(address);
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    if address.is_unspecified() || address.is_loopback() {
        return true;
    }
    let local = UdpSocket::bind(any).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    local.is_ok_and(|local| local.ip() == address)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use minichat_config::outbound::Outbound;
    use tokio::net::TcpListener;

    use super::*;

    const TENANT: ChosenBy = ChosenBy::Tenant(TenantId(uuid::Uuid::nil()));
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));

    /// A connector that may call loopback, for which names resolve to `answers`.
    fn connector<const N: usize>(answers: [&[IpAddr]; N]) -> Connector {
        let connector = Connector::new(&ClientSettings {
            outbound: Outbound {
                allow_private: "127.0.0.0/8".parse().unwrap(),
                ..Outbound::default()
            },
            ..ClientSettings::default()
        });
        let answers = answers.into_iter().map(<[_]>::to_vec);
        *connector.lookups.scripted.lock().unwrap() = answers.collect();
        connector
    }

    async fn listener() -> (TcpListener, Origin) {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let origin = Origin {
            is_tls: false,
            host: "rebinding.example.com".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        (listener, origin)
    }

    async fn peer(connector: &Connector, origin: &Origin) -> Result<IpAddr, ConnectError> {
        match connector.connect(origin, TENANT).await? {
            Transport::Plain(tcp) => Ok(tcp.peer_addr()?.ip()),
            other => panic!("{other:?}"),
        }
    }

    /// D48: no second answer of DNS decides where the connection goes.
    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
        let (_listener, origin) = listener().await;
        let connector = connector([&[LOOPBACK], &[METADATA]]);
        assert_eq!(peer(&connector, &origin).await.unwrap(), LOOPBACK);
        let refused = peer(&connector, &origin).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
    }

    #[tokio::test]
    async fn of_several_addresses_only_those_that_may_be_called_are_tried() {
        let (_listener, origin) = listener().await;
        let connector = connector([&[METADATA, PRIVATE, LOOPBACK], &[PRIVATE, METADATA]]);
        assert_eq!(peer(&connector, &origin).await.unwrap(), LOOPBACK);
        let refused = peer(&connector, &origin).await.unwrap_err().to_string();
        assert!(refused.contains("resolves to 10.9.8.7"), "{refused}");
    }

    #[test]
    fn this_host_knows_its_own_addresses() {
        for own in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.1",
            "::",
        ] {
            assert!(is_of_this_host(own.parse().unwrap()), "{own}");
        }
        assert!(!is_of_this_host("192.0.2.1".parse().unwrap()));
    }
}
