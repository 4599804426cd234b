//! The rooms of a crate are its top modules. Circles of imports between them are forbidden, however indirect.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use syn::visit::{self, Visit};

use super::graph::Graph;
use crate::workspace;

/// Crates whose rooms are checked: their names and directories.
const CRATES: &[(&str, &str)] = &[
    ("minichat-dataplane", "dataplane/src"),
    ("minichat-operator", "operator/src"),
];

/// One line for each circle, such as `minichat-operator: caches -> issuers -> caches`.
pub(super) fn violations(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut violations = Vec::new();
    for (name, directory) in CRATES {
        let graph = read(&root.join(directory))?;
        let circles = circles(&graph);
        violations.extend(
            circles
                .iter()
                .map(|circle| format!("{name}: {}", circle.join(" -> "))),
        );
    }
    Ok(violations)
}

/// Which room imports which.
fn read(source: &Path) -> anyhow::Result<Graph> {
    let mut graph = Graph::default();
    let mut files = Vec::new();
    workspace::find_files(source, &["rs"], &mut files)?;
    for path in files {
        let module = module_of(path.strip_prefix(source)?);
        let Some(room) = module.first() else { continue };
        let text = std::fs::read_to_string(&path)?;
        let file = syn::parse_file(&text).with_context(|| format!("{}", path.display()))?;
        let mut imports = Imports {
            depth: module.len(),
            rooms: BTreeSet::new(),
        };
        imports.visit_file(&file);
        imports.rooms.remove(room);
        graph.add(room, imports.rooms);
    }
    Ok(graph)
}

/// The module path of `file`. Empty for the crate root and for tests.
fn module_of(file: &Path) -> Vec<String> {
    let parts = file.components();
    let mut module: Vec<String> = parts
        .map(|part| part.as_os_str().to_string_lossy().replace(".rs", ""))
        .collect();
    let is_test = module
        .iter()
        .any(|name| name == "tests" || name.ends_with("_tests"));
    match module.last().map(String::as_str) {
        Some("lib" | "main") if module.len() == 1 => module.clear(),
        Some("mod") => {
            module.pop();
        }
        _ => {}
    }
    if is_test { Vec::new() } else { module }
}

/// Collects the rooms that the paths in a file refer to.
struct Imports {
    /// Number of `super` up to the crate root.
    depth: usize,
    rooms: BTreeSet<String>,
}

impl Imports {
    /// Adds the rooms that `segments` refer to. The last segment may be a group.
    fn follow(&mut self, mut segments: Vec<String>) {
        let supers = segments.iter().take_while(|name| *name == "super").count();
        if segments.first().is_some_and(|name| name == "crate") {
            segments.remove(0);
        } else if supers > 0 && supers == self.depth {
            segments.drain(..supers);
        } else {
            return;
        }
        // Items of the root itself begin with a capital letter or do not exist.
        self.rooms.extend(segments.into_iter().next());
    }

    fn follow_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.follow_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.follow(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.follow(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.follow(before.to_vec()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.follow_tree(before, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.follow_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.follow(segments.map(|it| it.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = module.attrs.iter().any(is_test_only);
        if !is_test {
            self.depth += 1;
            visit::visit_item_mod(self, module);
            self.depth -= 1;
        }
    }
}

fn is_test_only(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Ident>()
            .is_ok_and(|condition| condition == "test")
}

/// The shortest circle of each room that imports itself indirectly.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let mut circles: Vec<Vec<String>> = Vec::new();
    for room in graph.members() {
        let is_known = circles.iter().flatten().any(|name| name == room);
        if !is_known && let Some(way) = way_back(graph, room) {
            circles.push(way);
        }
    }
    circles
}

fn way_back(graph: &Graph, room: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = std::collections::VecDeque::from([vec![room.to_owned()]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last()?.clone();
        for next in graph.direct(&last) {
            let longer = [&way[..], &[next.to_owned()]].concat();
            if next == room {
                return Some(longer);
            }
            if seen.insert(next.to_owned()) {
                ways.push_back(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(depth: usize, text: &str) -> Vec<String> {
        let rooms = BTreeSet::new();
        let mut imports = Imports { depth, rooms };
        imports.visit_file(&syn::parse_file(text).unwrap());
        imports.rooms.into_iter().collect()
    }

    #[test]
    fn every_form_of_an_import_names_its_room() {
        let text =
            "use crate::{a, b::{C, d}};\nuse std::fmt;\nfn f() { crate::e::g(); super::own(); }";
        assert_eq!(rooms(2, text), ["a", "b", "e"]);
        assert_eq!(rooms(1, "use super::{a::B, c};"), ["a", "c"]);
        let tests = "#[cfg(test)] mod tests { use crate::a; } mod inner { use super::super::b; }";
        assert_eq!(rooms(1, tests), ["b"]);
    }

    #[test]
    fn a_file_stands_in_a_room() {
        let room = |file: &str| module_of(Path::new(file)).join("::");
        assert_eq!(room("lib.rs"), "");
        assert_eq!(room("caches/mod.rs"), "caches");
        assert_eq!(room("caches/index.rs"), "caches::index");
        assert_eq!(room("http/auth_tests.rs"), "");
    }

    #[test]
    fn a_circle_is_named_by_its_shortest_way() {
        let graph = Graph::of(&[
            ("a", &["b"]),
            ("b", &["c", "a"]),
            ("c", &["a"]),
            ("d", &["a"]),
        ]);
        let found = circles(&graph);
        assert_eq!(found[0], ["a", "b", "a"]);
        assert_eq!(found[1], ["c", "a", "b", "c"]);
        assert_eq!(found.len(), 2, "one for each room that stands in one");
        assert_eq!(circles(&Graph::of(&[("a", &["b"]), ("b", &[])])).len(), 0);
    }
}
