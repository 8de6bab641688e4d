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
    check(cargo().args(["build", "--locked", "-p", "steer-user", "--bin", "steer"]))?;
    let docs = repository().join("docs");
    check(
        Command::new(dist::built("dev").join("steer"))
            .arg("reference")
            .arg(docs.join("src/reference")),
    )?;
    check(Command::new(MDBOOK.install()?).arg("build").arg(docs))
}
