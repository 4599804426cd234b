//! The faults: how each is caused and repaired.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::postgres::{PostgresDatabase, Transaction};

use crate::packets::DroppedPackets;
use crate::scene::Scene;
use crate::server::{Server, Standby};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    KilledOnSqlite,
    KilledOnPostgres,
    FullDisk,
    /// Before a killed process is started again.
    FullDiskAtStart,
    ReadOnly,
    Failover,
    /// A standby that streams is promoted, and both servers are in the URL.
    Promoted,
    Frozen,
    Unreachable,
    Stopped,
    KilledServer,
    Starting,
    HalfOfSessions,
    FewConnections,
    NoConnections,
    LockedRows,
    SlowStatements,
    Pooler,
}

/// The oldest sessions of a data plane that are left: one listens.
const FEW: usize = 4;

/// When a fault was there.
#[derive(Clone, Copy)]
pub(crate) struct Struck {
    pub(crate) began: Instant,
    pub(crate) repaired: Instant,
}

/// What `/readyz` says of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It is what a request meets: not ready while requests are refused.
    Agrees,
    /// Requests that do not need what is locked or slow are served, so refusals
    /// are no contradiction; if nothing is left for the check itself, it fails.
    MayStay,
    /// It fails, though not as soon as single requests are refused.
    Fails,
    /// Always ready. The few requests that are refused are no contradiction.
    Stays,
}

/// What users notice.
pub(crate) struct Expected {
    /// Requests are refused with 503. `None`: a few may be, whose commit was under way.
    pub(crate) refuses: Option<bool>,
    pub(crate) readiness: Readiness,
    /// Connections are cut or refused, because the process is gone.
    pub(crate) cuts: bool,
    /// Turns are left running that only a watchdog can end.
    pub(crate) orphans: bool,
    /// Commits may be in doubt until the fault is repaired, and so long their requests wait.
    pub(crate) doubts: bool,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::KilledOnSqlite,
        Self::KilledOnPostgres,
        Self::FullDisk,
        Self::FullDiskAtStart,
        Self::ReadOnly,
        Self::Failover,
        Self::Promoted,
        Self::Frozen,
        Self::Unreachable,
        Self::Stopped,
        Self::KilledServer,
        Self::Starting,
        Self::HalfOfSessions,
        Self::FewConnections,
        Self::NoConnections,
        Self::LockedRows,
        Self::SlowStatements,
        Self::Pooler,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KilledOnSqlite => "`kill -9` of the data plane, SQLite",
            Self::KilledOnPostgres => "`kill -9` of the data plane, PostgreSQL",
            Self::FullDisk => "disk full, SQLite",
            Self::FullDiskAtStart => "disk full when the data plane starts, SQLite",
            Self::ReadOnly => "PostgreSQL read-only by a setting",
            Self::Failover => "PostgreSQL a read-only standby, then promoted",
            Self::Promoted => "PostgreSQL killed, its standby promoted, both in the URL",
            Self::Frozen => "PostgreSQL stopped by SIGSTOP",
            Self::Unreachable => "packets to and from PostgreSQL dropped",
            Self::Stopped => "PostgreSQL stopped and started again",
            Self::KilledServer => "`kill -9` of PostgreSQL, started again",
            Self::Starting => "PostgreSQL refuses because it is starting",
            Self::HalfOfSessions => "half of the sessions ended by PostgreSQL, each second",
            Self::FewConnections => "PostgreSQL's `max_connections` used up, 3 sessions left",
            Self::NoConnections => "PostgreSQL's `max_connections` used up by others",
            Self::LockedRows => "all quota rows locked by another session",
            Self::SlowStatements => "PostgreSQL slower than the statement timeout",
            Self::Pooler => "no fault, through PgBouncer in transaction mode",
        }
    }

    pub(crate) const fn database(self) -> DatabaseKind {
        match self {
            Self::KilledOnSqlite | Self::FullDisk | Self::FullDiskAtStart => DatabaseKind::Sqlite,
            _ => DatabaseKind::Postgres,
        }
    }

    /// Whether its SQLite file is on a small disk of its own.
    pub(crate) const fn needs_disk(self) -> bool {
        matches!(self, Self::FullDisk | Self::FullDiskAtStart)
    }

    /// How long it lasts. A killed process is started again soon. The others
    /// last longer than every time limit of the data plane, and one is as long
    /// as a slow failover.
    pub(crate) const fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::KilledOnSqlite | Self::KilledOnPostgres | Self::KilledServer => 2,
            Self::Stopped => 25,
            _ => 8,
        })
    }

    pub(crate) const fn expected(self) -> Expected {
        let is_killed = matches!(self, Self::KilledOnSqlite | Self::KilledOnPostgres);
        let keeps_sessions = matches!(
            self,
            Self::HalfOfSessions | Self::FewConnections | Self::Pooler
        );
        let is_away = !is_killed && !keeps_sessions;
        Expected {
            refuses: match self {
                Self::HalfOfSessions | Self::FewConnections => None,
                Self::Pooler => Some(false),
                _ => Some(is_away),
            },
            readiness: match self {
                Self::LockedRows | Self::SlowStatements => Readiness::MayStay,
                Self::HalfOfSessions | Self::FewConnections => Readiness::Stays,
                Self::NoConnections => Readiness::Fails,
                _ => Readiness::Agrees,
            },
            cuts: is_killed || matches!(self, Self::FullDiskAtStart),
            orphans: matches!(self, Self::KilledOnPostgres),
            doubts: is_away && matches!(self.database(), DatabaseKind::Postgres),
        }
    }

    /// Causes the fault for a while and repairs it.
    pub(crate) async fn strike(self, scene: &mut Scene) -> anyhow::Result<Struck> {
        let began = Instant::now();
        self.cause_and_repair(scene).await?;
        Ok(Struck {
            began,
            repaired: Instant::now(),
        })
    }

    async fn cause_and_repair(self, scene: &mut Scene) -> anyhow::Result<()> {
        match self {
            Self::KilledOnSqlite | Self::KilledOnPostgres => {
                scene.kill().await?;
                self.last().await;
                scene.serve().await
            }
            Self::FullDisk => {
                let filler = scene.fill_disk()?;
                self.last().await;
                Ok(std::fs::remove_file(filler)?)
            }
            Self::FullDiskAtStart => {
                scene.kill().await?;
                let filler = scene.fill_disk()?;
                scene.serve().await?;
                self.last().await;
                Ok(std::fs::remove_file(filler)?)
            }
            Self::Pooler => {
                self.last().await;
                Ok(())
            }
            Self::Promoted => {
                let standby = scene.standby.as_ref().context("no standby")?;
                scene.server()?.kill().await?;
                self.last().await;
                standby.promote().await?;
                scene.database = Database::Postgres(PostgresDatabase::at(standby.url()));
                Ok(())
            }
            Self::HalfOfSessions
            | Self::FewConnections
            | Self::NoConnections
            | Self::LockedRows => self.strike_sessions(scene.server()?).await,
            _ => self.strike_server(scene.server()?).await,
        }
    }

    async fn strike_sessions(self, server: &Server) -> anyhow::Result<()> {
        match self {
            Self::HalfOfSessions => {
                for _ in 0..self.lasts().as_secs() {
                    server.end_sessions("random() < 0.5").await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Self::FewConnections | Self::NoConnections => {
                let kept = if self == Self::FewConnections { FEW } else { 0 };
                let connections = server.take_every_connection(kept).await?;
                self.last().await;
                drop(connections);
            }
            _ => {
                let rows = "SELECT 1 FROM quota_usage FOR UPDATE";
                let lock = Transaction::begin(&server.url(), rows).await?;
                self.last().await;
                drop(lock);
            }
        }
        Ok(())
    }

    async fn strike_server(self, server: &Server) -> anyhow::Result<()> {
        match self {
            Self::ReadOnly => {
                server.set_read_only(true).await?;
                self.last().await;
                server.set_read_only(false).await
            }
            Self::Frozen => {
                server.freeze()?;
                self.last().await;
                server.thaw()
            }
            Self::Failover | Self::Starting => {
                let standby = if self == Self::Failover {
                    Standby::Reads
                } else {
                    Standby::Refuses
                };
                server.stop()?;
                server.start_standby(standby).await?;
                self.last().await;
                server.promote().await
            }
            Self::Unreachable => {
                let dropped = DroppedPackets::of(server.port)?;
                self.last().await;
                drop(dropped);
                Ok(())
            }
            Self::SlowStatements => {
                server.set_slow(true).await?;
                self.last().await;
                server.set_slow(false).await
            }
            Self::KilledServer => {
                server.kill().await?;
                self.last().await;
                server.start().await
            }
            _ => {
                server.stop()?;
                self.last().await;
                server.start().await
            }
        }
    }

    async fn last(self) {
        tokio::time::sleep(self.lasts()).await;
    }
}
