//! `cargo xtask check`: all checks that are not tests.

use crate::{deny, dependencies, documents, generate, process, workspace};

pub(crate) fn run() -> anyhow::Result<()> {
    step("formatting");
    process::run(
        "cargo fmt",
        workspace::cargo().args(["fmt", "--all", "--check"]),
    )?;
    step("dependency rules");
    dependencies::run()?;
    step("paths in documents");
    documents::check()?;
    step("generated files");
    generate::check()?;
    step("lints");
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ];
    process::run("cargo clippy", workspace::cargo().args(clippy))?;
    step("documentation");
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--locked",
        "--document-private-items",
    ];
    process::run(
        "cargo doc",
        workspace::cargo()
            .args(doc)
            // Private items are documented too, so that links to them resolve.
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private_intra_doc_links",
            ),
    )?;
    step("licences and sources");
    deny::run()?;
    println!("all checks passed");
    Ok(())
}

fn step(name: &str) {
    println!("== {name}");
}
