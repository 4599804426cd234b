//! Decides which contents of a directory count while files are being written,
//! so that a running tenant does not stop because its file is empty, half
//! written or missing for a moment.
//!
//! * A text with at least the objects of the previous one counts at once.
//! * A file that is missing, or lacks an object, counts when this has lasted
//!   for [`SETTLED`]. An object that moved to another file is not lacking.
//! * A file that is being written counts when it is closed, or after
//!   [`SETTLED`] without a write.
//! * An empty or unreadable file is a problem as long as it lasts. Its previous
//!   text stays in effect. To remove its tenants, delete the file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use minichat_crds::manifests::Files;
use tokio::time::Instant;

/// How long a removal must last before it counts.
pub(super) const SETTLED: Duration = Duration::from_secs(1);

/// Kind and name of each object in a text; `None` if the text cannot be parsed.
pub(super) type Objects = Option<Arc<BTreeSet<String>>>;

/// The texts in effect, and the changes that have to settle.
#[derive(Default)]
pub(super) struct Settling {
    counting: Files,
    pending: BTreeMap<String, Pending>,
    /// The objects of each file when it could last be parsed.
    whole: BTreeMap<String, Arc<BTreeSet<String>>>,
}

/// A change of a file that does not count yet.
struct Pending {
    /// `None`: the file is missing.
    text: Option<Arc<str>>,
    since: Instant,
}

/// One reading of the directory.
pub(super) struct Reading<'a> {
    pub(super) files: &'a Files,
    /// Names of files that are being written.
    pub(super) writing: &'a BTreeSet<String>,
    pub(super) now: Instant,
}

impl Settling {
    /// The files that count, and when to check again if a change has to settle.
    pub(super) fn take(
        &mut self,
        reading: &Reading<'_>,
        mut objects: impl FnMut(&str, &Arc<str>) -> Objects,
    ) -> (Files, Option<Instant>) {
        let Reading {
            files,
            writing,
            now,
        } = reading;
        let mut counting = Files {
            unreadable: files.unreadable.clone(),
            ..Files::default()
        };
        let added = self.added(files, &mut objects);
        let before = std::mem::take(&mut self.counting.texts);
        let mut pending = BTreeMap::new();
        let names: BTreeSet<&String> = before.keys().chain(files.texts.keys()).collect();
        for name in names {
            let (old, new) = (before.get(name), files.texts.get(name));
            if files.unreadable.contains_key(name) {
                counting
                    .texts
                    .extend(old.map(|old| (name.clone(), Arc::clone(old))));
                continue;
            }
            let is_held = match (old, new) {
                (Some(old), Some(new)) if old == new => false,
                (Some(held), Some(new)) if is_blank(new) && !is_blank(held) => {
                    let problem =
                        "is empty; its tenants keep running: write it again, or delete it";
                    counting.unreadable.insert(name.clone(), problem.to_owned());
                    counting
                        .texts
                        .extend(old.map(|old| (name.clone(), Arc::clone(old))));
                    continue;
                }
                (Some(old), Some(new)) => {
                    writing.contains(name) || {
                        let old = self.held(name, objects(name, old));
                        let new = objects(name, new);
                        if new.is_none() {
                            self.whole
                                .extend(old.clone().map(|old| (name.clone(), old)));
                        }
                        is_less(old.as_deref(), new.as_deref(), &added)
                    }
                }
                (Some(old), None) => {
                    let old = self.held(name, objects(name, old));
                    is_less(old.as_deref(), Some(&BTreeSet::new()), &added)
                }
                (None, _) => writing.contains(name),
            };
            let held = is_held.then(|| self.since(name, new, *now));
            let held = held.filter(|since| *now < *since + SETTLED);
            let counts = if held.is_some() { old } else { new };
            pending.extend(held.map(|since| {
                let text = new.cloned();
                (name.clone(), Pending { text, since })
            }));
            counting
                .texts
                .extend(counts.map(|text| (name.clone(), Arc::clone(text))));
        }
        self.counting.clone_from(&counting);
        self.whole
            .retain(|name, _| counting.texts.contains_key(name));
        self.pending = pending;
        let next = self
            .pending
            .values()
            .map(|pending| pending.since + SETTLED)
            .min();
        (counting, next)
    }

    /// Objects of files that are new or have changed.
    fn added(
        &self,
        files: &Files,
        objects: &mut impl FnMut(&str, &Arc<str>) -> Objects,
    ) -> BTreeSet<String> {
        let before = &self.counting.texts;
        let is_less = before
            .keys()
            .any(|name| files.texts.get(name) != before.get(name));
        if !is_less {
            return BTreeSet::new();
        }
        let changed = files
            .texts
            .iter()
            .filter(|(name, text)| before.get(*name) != Some(*text));
        changed
            .filter_map(|(name, text)| objects(name, text))
            .flat_map(|objects| objects.iter().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The objects of the file when it could last be parsed.
    fn held(&self, name: &str, counting: Objects) -> Objects {
        counting.or_else(|| self.whole.get(name).cloned())
    }

    /// Since when the file has the text `new`.
    fn since(&self, name: &str, new: Option<&Arc<str>>, now: Instant) -> Instant {
        let pending = self
            .pending
            .get(name)
            .filter(|pending| pending.text.as_ref() == new);
        pending.map_or(now, |pending| pending.since)
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Whether `new` lacks an object of `old` that was not added elsewhere. A text
/// that cannot be parsed is refused as a whole, so nothing is lost by it.
fn is_less(
    old: Option<&BTreeSet<String>>,
    new: Option<&BTreeSet<String>>,
    added: &BTreeSet<String>,
) -> bool {
    let Some(new) = new else { return false };
    // The old text could never be parsed into objects, for example a rendered
    // tenant. Only its removal is a loss.
    let Some(old) = old else {
        return new.is_empty();
    };
    old.iter()
        .any(|object| !new.contains(object) && !added.contains(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text with one object per line; `?` cannot be parsed.
    fn objects(_: &str, text: &Arc<str>) -> Objects {
        let whole = !text.contains('?');
        whole.then(|| Arc::new(text.lines().map(str::to_owned).collect()))
    }

    struct Scene {
        settling: Settling,
        start: Instant,
        writing: BTreeSet<String>,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                settling: Settling::default(),
                start: Instant::now(),
                writing: BTreeSet::new(),
            }
        }

        /// The files that count after `at` milliseconds.
        fn at(&mut self, at: u64, files: &[(&str, &str)]) -> Files {
            let mut read = Files::default();
            for (name, text) in files {
                match text.strip_prefix('!') {
                    Some(error) => {
                        read.unreadable.insert((*name).to_owned(), error.to_owned());
                    }
                    None => read.insert(name, *text),
                }
            }
            let reading = Reading {
                files: &read,
                writing: &self.writing,
                now: self.start + Duration::from_millis(at),
            };
            self.settling.take(&reading, objects).0
        }
    }

    fn text<'a>(files: &'a Files, name: &str) -> Option<&'a str> {
        files.texts.get(name).map(|text| &**text)
    }

    #[test]
    fn what_is_new_or_says_no_less_counts_at_once() {
        let mut scene = Scene::new();
        assert_eq!(text(&scene.at(0, &[("a", "x")]), "a"), Some("x"));
        assert_eq!(text(&scene.at(1, &[("a", "x\ny")]), "a"), Some("x\ny"));
        let broken = scene.at(2, &[("a", "?"), ("b", "z")]);
        assert_eq!(
            (text(&broken, "a"), text(&broken, "b")),
            (Some("?"), Some("z"))
        );
        assert_eq!(
            text(&scene.at(3, &[("a", "x"), ("b", "z")]), "a"),
            Some("?"),
            "y is missing"
        );
        assert_eq!(
            text(&scene.at(4, &[("a", "y\nx"), ("b", "z")]), "a"),
            Some("y\nx")
        );
    }

    #[test]
    fn a_file_that_is_gone_or_says_less_counts_after_a_second() {
        for less in [&[][..], &[("a", "x")][..]] {
            let mut scene = Scene::new();
            scene.at(0, &[("a", "x\ny")]);
            assert_eq!(text(&scene.at(100, less), "a"), Some("x\ny"));
            assert_eq!(text(&scene.at(1099, less), "a"), Some("x\ny"));
            assert_eq!(
                text(&scene.at(1100, less), "a"),
                less.first().map(|(_, text)| *text)
            );
            assert!(scene.settling.pending.is_empty());
        }
        let mut scene = Scene::new();
        scene.at(0, &[("a", "x")]);
        scene.at(100, &[]);
        scene.at(900, &[("a", "x")]);
        assert_eq!(
            text(&scene.at(1200, &[]), "a"),
            Some("x"),
            "it was back meanwhile"
        );
    }

    #[test]
    fn what_moved_to_another_file_is_not_waited_for() {
        let mut scene = Scene::new();
        scene.at(0, &[("a", "x\ny")]);
        let moved = scene.at(1, &[("b", "x\ny")]);
        assert_eq!((text(&moved, "a"), text(&moved, "b")), (None, Some("x\ny")));
        let split = scene.at(2, &[("b", "x"), ("c", "y")]);
        assert_eq!(
            (text(&split, "b"), text(&split, "c")),
            (Some("x"), Some("y"))
        );
    }

    #[test]
    fn a_file_that_is_being_written_counts_when_it_is_closed_or_left_alone() {
        let mut scene = Scene::new();
        scene.at(0, &[("a", "x")]);
        scene.writing.insert("a".to_owned());
        assert_eq!(text(&scene.at(100, &[("a", "x1")]), "a"), Some("x"));
        assert_eq!(text(&scene.at(900, &[("a", "x12")]), "a"), Some("x"));
        assert_eq!(text(&scene.at(1800, &[("a", "x12")]), "a"), Some("x"));
        assert_eq!(text(&scene.at(1900, &[("a", "x12")]), "a"), Some("x12"));
        scene.at(2000, &[("a", "x12\ny")]);
        scene.writing.clear();
        assert_eq!(
            text(&scene.at(2001, &[("a", "x12\ny")]), "a"),
            Some("x12\ny")
        );
    }

    #[test]
    fn an_empty_or_unreadable_file_is_a_problem_and_its_text_goes_on() {
        let mut scene = Scene::new();
        scene.at(0, &[("a", "x"), ("b", "")]);
        for (at, says) in [(1, " \n"), (99_000, "!is a directory")] {
            let files = scene.at(at, &[("a", says), ("b", "")]);
            assert_eq!(text(&files, "a"), Some("x"));
            assert_eq!(files.unreadable.len(), 1, "{files:?}");
        }
        let back = scene.at(99_001, &[("a", "x\ny")]);
        assert_eq!((text(&back, "a"), back.unreadable.len()), (Some("x\ny"), 0));
    }
}
