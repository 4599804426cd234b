//! Data planes on one database, one of which is killed from time to time.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use minichat_tests::child::{Process, variables_of_a_pool};
use minichat_tests::client::Api;
use tokio::task::JoinHandle;

/// A process that is started again whenever it was killed.
struct Pod {
    variables: Vec<(String, String)>,
    /// All processes that it was write their logs here. A process whose log nobody reads stops at a full pipe.
    log: PathBuf,
    process: Option<Process>,
}

/// All processes.
pub(crate) struct Pods {
    program: String,
    all: Vec<Pod>,
    pub(crate) apis: Vec<Api>,
}

impl Pods {
    pub(crate) async fn start(
        program: &Path,
        database_url: &str,
        directory: &Path,
        count: usize,
    ) -> anyhow::Result<Self> {
        let program = program.to_str().context("the path is no text")?.to_owned();
        let mut pods = Self {
            program,
            all: Vec::new(),
            apis: Vec::new(),
        };
        for place in 0..count {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let settings = format!(
                "MINICHAT_SOURCE_MANIFESTS={}\nMINICHAT_SERVER_BIND_ADDR=127.0.0.1:{port}",
                directory.join("manifests").display()
            );
            pods.all.push(Pod {
                variables: variables_of_a_pool(database_url, &settings),
                log: directory.join(format!("pod-{place}.log")),
                process: None,
            });
            pods.restart(place).await?;
            pods.apis.push(Api::new(([127, 0, 0, 1], port).into()));
        }
        Ok(pods)
    }

    /// The processes that are being killed, one of them at random at every interval.
    pub(crate) fn killed_every(mut self, interval: Duration) -> Killing {
        let stop = Arc::new(AtomicBool::new(false));
        let kills = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (stop, kills) = (Arc::clone(&stop), Arc::clone(&kills));
            async move {
                while !stop.load(Ordering::SeqCst) {
                    tokio::time::sleep(interval).await;
                    let random = uuid::Uuid::new_v4().as_u128() % self.all.len() as u128;
                    self.restart(usize::try_from(random)?).await?;
                    kills.fetch_add(1, Ordering::SeqCst);
                }
                Ok(self)
            }
        });
        Killing { stop, kills, task }
    }

    async fn restart(&mut self, place: usize) -> anyhow::Result<()> {
        let pod = &mut self.all[place];
        if let Some(process) = pod.process.take() {
            process.kill().await?;
        }
        let mut process = Process::start(&self.program, pod.variables.clone()).await?;
        process.write_logs(File::options().create(true).append(true).open(&pod.log)?);
        pod.process = Some(process);
        Ok(())
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        for pod in self.all {
            if let Some(process) = pod.process {
                process.kill().await?;
            }
        }
        Ok(())
    }
}

/// Kills going on.
pub(crate) struct Killing {
    stop: Arc<AtomicBool>,
    kills: Arc<AtomicUsize>,
    task: JoinHandle<anyhow::Result<Pods>>,
}

impl Killing {
    /// Stops; returns the processes, all running, and the number of kills.
    pub(crate) async fn stop(self) -> anyhow::Result<(Pods, usize)> {
        self.stop.store(true, Ordering::SeqCst);
        let pods = self.task.await??;
        Ok((pods, self.kills.load(Ordering::SeqCst)))
    }
}
