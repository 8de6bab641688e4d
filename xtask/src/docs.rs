//! `cargo xtask docs`: builds the book.

use std::process::Command;

use anyhow::Result;

use crate::{
    dist,
    run::{cargo, check, repository},
    setup,
    tool::Tool,
};

const MDBOOK: Tool = Tool {
    name: "mdbook",
    version: "0.5.4",
};

/// Regenerates the reference of the documentation, and builds the book into `target/book`.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    check(
        cargo()
            .args(["build", "--locked", "--bins"])
            .args(dist::PACKAGES),
    )?;
    let docs = repository().join("docs");
    check(
        Command::new(dist::built("dev").join("steer"))
            .arg("reference")
            .arg(docs.join("src/reference")),
    )?;
    dist::write(
        &dist::built("dev").join("steer-beacon"),
        &["--print-reference"],
        &docs.join("src/reference/beacon.md"),
    )?;
    check(Command::new(MDBOOK.install()?).arg("build").arg(docs))
}
