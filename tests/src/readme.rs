//! Checks that the tests named in this crate's README exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

const README: &str = include_str!("../README.md");

/// The directories of the tests of a crate or suite, from the root of the
/// workspace.
fn directories(suite: &str) -> anyhow::Result<Vec<&'static str>> {
    Ok(match suite {
        "" => vec!["tests/tests/blackbox"],
        "histories" => vec!["tests/tests/histories"],
        "aimock" => vec!["tests/tests/aimock"],
        "llmsim" => vec!["tests/tests/llmsim"],
        "openapi" => vec!["tests/tests/openapi"],
        "operator" => vec!["tests/tests/operator"],
        "webhooks" => vec!["tests/tests/webhooks"],
        "upload_clients" => vec!["tests/tests/upload_clients"],
        "node" => vec!["tests/tests/node"],
        "charts" => vec!["tests/tests/charts"],
        "minichat-core" => vec!["crates/core/src"],
        "minichat-metrics" => vec!["crates/metrics/src"],
        "minichat-telemetry" => vec!["crates/telemetry/src"],
        "minichat-identity" => vec!["crates/identity/src"],
        "minichat-config" => vec!["crates/config/src"],
        "minichat-crds" => vec!["crds/src"],
        "minichat-operator" => vec!["operator/src"],
        "minichat-store" => vec!["crates/store/src"],
        "minichat-provider" => vec!["crates/provider/src", "crates/provider/tests"],
        "minichat-dataplane" => vec!["dataplane/src"],
        "minichat-scripted-provider" => vec!["tests/scripted-provider/src"],
        other => anyhow::bail!("{other} is no suite that this test knows"),
    })
}

/// Whether `name`, such as `races::two_at_once`, is a test below `directory`: a
/// function in a file or directory called like its last module.
fn is_test(directory: &Path, name: &str) -> anyhow::Result<bool> {
    let mut parts: Vec<_> = name.split("::").collect();
    let function = format!("fn {}(", parts.pop().unwrap_or_default());
    let mut found = false;
    for file in sources(directory)? {
        let is_module = parts.iter().all(|part| {
            let path = file.with_extension("");
            path.components().any(|it| it.as_os_str() == *part)
        });
        found |= is_module && fs::read_to_string(&file)?.contains(&function);
    }
    Ok(found)
}

fn sources(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The texts in backticks in the tables.
fn named() -> BTreeSet<&'static str> {
    let rows = README.lines().filter(|line| line.starts_with("| "));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.contains("::")).collect()
}

#[test]
fn every_test_that_the_table_names_exists() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let names = named();
    ensure!(names.len() > 100, "only {} names", names.len());
    for name in names {
        let (suite, test) = name.split_once(' ').unwrap_or(("", name));
        let mut found = false;
        for directory in directories(suite)? {
            found |= is_test(&root.join(directory), test)?;
        }
        ensure!(found, "`{name}` is no test");
    }
    Ok(())
}

#[test]
fn every_check_of_the_chapters_has_a_row() {
    for (chapter, checks) in [
        ("## Chapter 01", 73),
        ("## Chapter 02", 70),
        ("## Chapter 03", 47),
        ("## Chapter 04", 75),
        ("## Chapter 05", 74),
    ] {
        let after = README.split(chapter).nth(1).unwrap_or_default();
        let table = after.split("\n## ").next().unwrap_or_default();
        let mut rows: Vec<u32> = Vec::new();
        for line in table.lines() {
            let Some(cell) = line
                .strip_prefix("| ")
                .and_then(|row| row.split(" |").next())
            else {
                continue;
            };
            let numbers: Vec<u32> = cell
                .split(&[',', '–'])
                .filter_map(|number| number.trim().parse().ok())
                .collect();
            if let ([first, .., last], true) = (&numbers[..], cell.contains('–')) {
                rows.extend(*first..=*last);
            } else {
                rows.extend(numbers);
            }
        }
        assert_eq!(rows, (1..=checks).collect::<Vec<_>>(), "{chapter}");
    }
}
