//! Shows the progress of a start: the number of steps, the current step, and how long it took last time. A long step is
//! printed again regularly.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs;

/// Maximum time without output.
const SILENCE: Duration = Duration::from_secs(15);
/// Durations of the steps of earlier starts on this machine, in seconds.
const FILE: &str = "durations.json";

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Shown to people. Durations are stored under it.
    name: String,
    /// Duration on two cores. Used when no earlier duration is known.
    usual: Duration,
}

impl Step {
    /// `name` completes a sentence, such as `building etcd`.
    pub fn new(name: impl Into<String>, usual: Duration) -> Self {
        Self {
            name: name.into(),
            usual,
        }
    }
}

/// The steps of one start.
#[derive(Debug)]
pub struct Steps {
    /// 0 if the steps are not counted.
    total: usize,
    begun: Cell<usize>,
    durations: Durations,
    silence: Duration,
}

impl Steps {
    /// Prints how long `plan` will take, before anything begins.
    pub fn begin(plan: &[Step]) -> Self {
        let durations = Durations::of_this_machine();
        let (total, last) = (plan.len(), durations.read());
        let expected = |step: &Step| last.get(&step.name).copied().unwrap_or(step.usual);
        let sum: Duration = plan.iter().map(expected).sum();
        if total > 0 {
            say(&format!("{total} steps, about {} in all:", words(sum)));
        }
        for step in plan {
            let source = match last.get(&step.name) {
                Some(_) => "as the last time",
                None => "not done here yet",
            };
            say(&format!(
                "  {}: {}, {source}",
                step.name,
                words(expected(step))
            ));
        }
        Self {
            total,
            begun: Cell::new(0),
            durations,
            silence: SILENCE,
        }
    }

    /// Steps whose number is not known, such as those that a test needs.
    pub fn uncounted() -> Self {
        Self {
            total: 0,
            begun: Cell::new(0),
            durations: Durations::of_this_machine(),
            silence: SILENCE,
        }
    }

    /// Runs the next step, and stores its duration if it succeeds.
    pub fn run<T>(
        &self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.begun.set(self.begun.get() + 1);
        let place = match self.total {
            0 => String::new(),
            total => format!("[{} of {total}] ", self.begun.get()),
        };
        let last = self.durations.read().get(name).copied();
        let last = last.map_or(String::new(), |last| {
            format!(", {} the last time", words(last))
        });
        say(&format!("{place}{name}{last}"));
        let started = Instant::now();
        let result = mentioned(self.silence, work, || {
            let so_far = words(started.elapsed());
            say(&format!("{place}{name}: {so_far} so far{last}"));
        })?;
        let took = started.elapsed();
        say(&format!("{place}{name}: done in {}", words(took)));
        self.durations.remember(name, took);
        Ok(result)
    }
}

/// Runs `work` and calls `mention` each time another `silence` has passed.
fn mentioned<T>(silence: Duration, work: impl FnOnce() -> T, mention: impl Fn() + Send) -> T {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            while is_done.recv_timeout(silence) == Err(RecvTimeoutError::Timeout) {
                mention();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Prints a line of progress to stderr, so that it does not mix with the output. Ignores errors.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// `4 min 12 s`, `9 s`.
fn words(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, 0) => format!("{} ms", time.as_millis()),
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// Durations of the last run of each step, in a file of the cache.
#[derive(Debug)]
struct Durations {
    file: Option<PathBuf>,
}

impl Durations {
    fn of_this_machine() -> Self {
        let cache = programs::cache().ok();
        Self {
            file: cache.map(|cache| cache.join(FILE)),
        }
    }

    fn read(&self) -> BTreeMap<String, Duration> {
        let text = self
            .file
            .as_ref()
            .and_then(|file| fs::read_to_string(file).ok());
        let seconds: Option<BTreeMap<String, f64>> =
            text.and_then(|text| serde_json::from_str(&text).ok());
        let seconds = seconds.unwrap_or_default().into_iter();
        seconds
            .filter_map(|(name, seconds)| Some((name, Duration::try_from_secs_f64(seconds).ok()?)))
            .collect()
    }

    /// A failure to write is ignored.
    fn remember(&self, name: &str, took: Duration) {
        let Some(file) = &self.file else { return };
        let mut all = self.read();
        all.insert(name.to_owned(), took);
        let seconds: BTreeMap<_, _> = all
            .iter()
            .map(|(name, took)| (name, took.as_secs_f64()))
            .collect();
        let _ = write_whole(
            file,
            &serde_json::to_string_pretty(&seconds).unwrap_or_default(),
        );
    }
}

/// If two starts write at once, one complete file remains.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let unfinished = file.with_extension(format!("{}.new", std::process::id()));
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&unfinished, text)?;
    fs::rename(unfinished, file)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn steps(directory: &Path, total: usize) -> Steps {
        Steps {
            total,
            begun: Cell::new(0),
            durations: Durations {
                file: Some(directory.join("below").join(FILE)),
            },
            silence: SILENCE,
        }
    }

    #[test]
    fn a_step_that_succeeds_is_remembered_and_one_that_fails_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let first = steps(directory.path(), 2);
        assert_eq!(first.run("one", || Ok(7)).unwrap(), 7);
        let failed: anyhow::Result<()> = first.run("two", || anyhow::bail!("no"));
        failed.unwrap_err();
        assert_eq!(first.begun.get(), 2);
        let later = steps(directory.path(), 2).durations.read();
        assert!(
            later.contains_key("one") && !later.contains_key("two"),
            "{later:?}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let steps = steps(directory.path(), 0);
        let file = steps.durations.file.clone().unwrap();
        write_whole(&file, "{\"one\": -1, \"two").unwrap();
        assert!(steps.durations.read().is_empty());
        write_whole(&file, "{\"one\": -1, \"two\": 1.5}").unwrap();
        let read = steps.durations.read();
        assert_eq!(
            read,
            [("two".to_owned(), Duration::from_millis(1500))].into()
        );
        steps.run("one", || Ok(())).unwrap();
        assert_eq!(steps.durations.read().len(), 2);
    }

    /// The work ends after it was mentioned three times.
    #[test]
    fn work_that_takes_long_is_mentioned_again_and_again() {
        let (mentioned_once, mentions) = mpsc::channel();
        let count = AtomicUsize::new(0);
        let mention = || {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = mentioned_once.send(());
        };
        let work = || (0..3).all(|_| mentions.recv_timeout(SILENCE).is_ok());
        assert!(mentioned(Duration::from_millis(1), work, mention));
        assert!(count.load(Ordering::SeqCst) >= 3);
    }

    #[test]
    fn durations_are_in_words() {
        let words_of = |millis| words(Duration::from_millis(millis));
        assert_eq!(words_of(40), "40 ms");
        assert_eq!(words_of(9_400), "9 s");
        assert_eq!(words_of(252_000), "4 min 12 s");
    }
}
