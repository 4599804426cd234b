//! What is broken, and how it is repaired.

use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::database::DatabaseKind;

use crate::scene::Scene;
use crate::server::Standby;

/// How long each lasts: longer than every limit of time of the data plane.
const LASTS: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    KilledOnSqlite,
    KilledOnPostgres,
    FullDisk,
    ReadOnly,
    Failover,
    Frozen,
    Stopped,
    Starting,
    Pooler,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::KilledOnSqlite,
        Self::KilledOnPostgres,
        Self::FullDisk,
        Self::ReadOnly,
        Self::Failover,
        Self::Frozen,
        Self::Stopped,
        Self::Starting,
        Self::Pooler,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KilledOnSqlite => "kill -9 of the data plane, SQLite",
            Self::KilledOnPostgres => "kill -9 of the data plane, PostgreSQL",
            Self::FullDisk => "disk full, SQLite",
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
            Self::KilledOnSqlite | Self::FullDisk => DatabaseKind::Sqlite,
            _ => DatabaseKind::Postgres,
        }
    }

    /// Whether every answer that a provider was asked for must be stored: room
    /// for it can be kept on a disk, but not in a server that is away.
    pub(crate) const fn keeps_answers(self) -> bool {
        matches!(self, Self::FullDisk | Self::Pooler)
    }

    /// Breaks something for a while and repairs it.
    pub(crate) async fn strike(self, scene: &mut Scene) -> anyhow::Result<()> {
        match self {
            Self::KilledOnSqlite | Self::KilledOnPostgres => {
                scene.kill().await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                return scene.serve().await;
            }
            Self::FullDisk => {
                let filler = scene.fill_disk()?;
                tokio::time::sleep(LASTS).await;
                std::fs::remove_file(filler)?;
                return Ok(());
            }
            Self::Pooler => {
                tokio::time::sleep(LASTS).await;
                return Ok(());
            }
            _ => {}
        }
        let server = scene.server.as_ref().context("no PostgreSQL")?;
        match self {
            Self::ReadOnly => {
                server.set_read_only(true).await?;
                tokio::time::sleep(LASTS).await;
                server.set_read_only(false).await
            }
            Self::Frozen => {
                server.freeze()?;
                tokio::time::sleep(LASTS).await;
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
                tokio::time::sleep(LASTS).await;
                server.promote().await
            }
            _ => {
                server.stop()?;
                tokio::time::sleep(LASTS).await;
                server.start().await
            }
        }
    }
}
