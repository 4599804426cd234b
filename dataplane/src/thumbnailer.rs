//! Makes thumbnails on one thread of its own, which has a low priority: images
//! must not delay streams. That there is one bounds the memory that decoders use.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use minichat_config::process::Thumbnails;
use minichat_thumbnail::{Limits, NoThumbnail, Thumbnail, thumbnail};
use rustix::process::setpriority_process;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Images that wait besides the one in work. The others wait in their uploads, which
/// take them along when they give up.
const QUEUE: usize = 1;

/// How long an upload waits for its thumbnail. An image can do without.
const PATIENCE: Duration = Duration::from_secs(10);

/// The thread's nice value. Threads that serve streams have 0, which is ten times
/// the share of a busy processor.
const NICE: i32 = 10;

/// The thread that makes thumbnails. It is started when it is needed first.
#[derive(Debug)]
pub struct Thumbnailer {
    limits: Limits,
    jobs: OnceLock<Option<mpsc::Sender<Job>>>,
}

#[derive(Debug)]
struct Job {
    file: Vec<u8>,
    reply: oneshot::Sender<Option<Thumbnail>>,
}

impl Thumbnailer {
    pub const fn new(config: &Thumbnails) -> Self {
        let Thumbnails {
            width,
            height,
            max_bytes,
            max_pixels,
            max_decode_bytes,
        } = *config;
        Self {
            limits: Limits {
                width,
                height,
                max_bytes,
                max_pixels,
                max_decode_bytes,
            },
            jobs: OnceLock::new(),
        }
    }

    /// Maximum size in bytes of a file that can have a thumbnail.
    pub const fn max_file_bytes(&self) -> u64 {
        self.limits.max_decode_bytes
    }

    /// The thumbnail of an image. `None` if it has none: a fault of the image is
    /// no fault of the upload (CONT-66).
    pub async fn make(&self, file: Vec<u8>) -> Option<Thumbnail> {
        let jobs = self.jobs.get_or_init(|| start(self.limits)).as_ref()?;
        let (reply, made) = oneshot::channel();
        let made = async {
            jobs.send(Job { file, reply }).await.ok()?;
            made.await.ok()?
        };
        timeout(PATIENCE, made).await.unwrap_or_else(|_| {
            tracing::warn!("an image was stored without a thumbnail, because others took too long");
            None
        })
    }
}

/// Starts the thread; `None` if the system refuses it.
fn start(limits: Limits) -> Option<mpsc::Sender<Job>> {
    let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE);
    let run = move || {
        // On Linux, a thread has a priority of its own.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::warn!(%error, "the thread for thumbnails keeps its priority");
        }
        while let Some(Job { file, reply }) = jobs.blocking_recv() {
            // An upload that does not wait any more needs none.
            if !reply.is_closed() {
                let _ = reply.send(made(&file, &limits));
            }
        }
    };
    let started = thread::Builder::new()
        .name("thumbnails".to_owned())
        .spawn(run);
    if let Err(error) = &started {
        tracing::error!(%error, "the thread for thumbnails could not be started");
    }
    started.ok().map(|_| sender)
}

fn made(file: &[u8], limits: &Limits) -> Option<Thumbnail> {
    match thumbnail(file, limits) {
        Ok(made) => Some(made),
        Err(error @ NoThumbnail::Panicked) => {
            tracing::warn!(%error, bytes = file.len(), "an image has no thumbnail");
            None
        }
        Err(error) => {
            tracing::debug!(%error, bytes = file.len(), "an image has no thumbnail");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minichat_config::process::ProcessConfig;

    use super::*;

    /// A GIF of one pixel.
    const PIXEL: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    fn thumbnailer() -> Arc<Thumbnailer> {
        let config = ProcessConfig::from_yaml(
            "auth: {mode: trusted_headers, trusted_peers: [127.0.0.1]}",
            [],
        );
        Arc::new(Thumbnailer::new(&config.unwrap().thumbnails))
    }

    /// CONT-66
    #[tokio::test]
    async fn many_at_once_are_made_one_after_another() {
        let thumbnailer = thumbnailer();
        let images = (0..3 * QUEUE).map(|_| thumbnailer.make(PIXEL.to_vec()));
        for made in futures_util::future::join_all(images).await {
            let made = made.unwrap();
            assert_eq!((made.width, made.height), (1, 1));
        }
    }

    /// CONT-66
    #[tokio::test]
    async fn an_image_that_cannot_be_read_has_none_and_the_thread_goes_on() {
        let thumbnailer = thumbnailer();
        assert_eq!(thumbnailer.make(PIXEL[..20].to_vec()).await, None);
        assert_eq!(thumbnailer.make(b"no image".to_vec()).await, None);
        assert!(thumbnailer.make(PIXEL.to_vec()).await.is_some());
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_delays_nobody() {
        let thumbnailer = thumbnailer();
        for _ in 0..100 {
            let left = Arc::clone(&thumbnailer);
            let left = tokio::spawn(async move { left.make(PIXEL.to_vec()).await });
            left.abort();
        }
        assert!(thumbnailer.make(PIXEL.to_vec()).await.is_some());
    }
}
