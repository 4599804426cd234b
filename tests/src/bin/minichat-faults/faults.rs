//! The faults: how each is caused and repaired.

use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::database::DatabaseKind;

use crate::scene::Scene;
use crate::server::Standby;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    KilledOnSqlite,
    KilledOnPostgres,
    FullDisk,
    /// Before a killed process is started again.
    FullDiskAtStart,
    ReadOnly,
    Failover,
    Frozen,
    Stopped,
    Starting,
    Pooler,
}

/// What users notice.
pub(crate) struct Expected {
    /// Requests are refused with 503.
    pub(crate) refuses: bool,
    /// Connections are cut or refused, because the process is gone.
    pub(crate) cuts: bool,
    /// Turns are left running that only a watchdog can end.
    pub(crate) orphans: bool,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::KilledOnSqlite,
        Self::KilledOnPostgres,
        Self::FullDisk,
        Self::FullDiskAtStart,
        Self::ReadOnly,
        Self::Failover,
        Self::Frozen,
        Self::Stopped,
        Self::Starting,
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
            Self::Frozen => "PostgreSQL stopped by SIGSTOP",
            Self::Stopped => "PostgreSQL stopped and started again",
            Self::Starting => "PostgreSQL refuses because it is starting",
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
            Self::KilledOnSqlite | Self::KilledOnPostgres => 2,
            Self::Stopped => 25,
            _ => 8,
        })
    }

    pub(crate) const fn expected(self) -> Expected {
        let is_killed = matches!(self, Self::KilledOnSqlite | Self::KilledOnPostgres);
        Expected {
            refuses: !is_killed && !matches!(self, Self::Pooler),
            cuts: is_killed || matches!(self, Self::FullDiskAtStart),
            orphans: matches!(self, Self::KilledOnPostgres),
        }
    }

    /// Causes the fault for a while and repairs it.
    pub(crate) async fn strike(self, scene: &mut Scene) -> anyhow::Result<()> {
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
            _ => self.strike_server(scene).await,
        }
    }

    async fn strike_server(self, scene: &Scene) -> anyhow::Result<()> {
        let server = scene.server.as_ref().context("no PostgreSQL")?;
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
