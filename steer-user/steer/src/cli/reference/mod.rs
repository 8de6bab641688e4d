//! `steer reference`: pages of the documentation generated from the program's own descriptions.

mod config;
mod drops;
mod metrics;
mod settings;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::{Cli, error::Failure};

/// Write the reference as Markdown.
#[derive(Debug, Args)]
pub(super) struct Reference {
    /// Folder, created if missing.
    folder: PathBuf,
}

impl Reference {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let folder = &self.folder;
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        for (name, page) in pages()? {
            let path = folder.join(name);
            fs::write(&path, page)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        Ok(())
    }
}

/// Returns the pages by their file names.
fn pages() -> anyhow::Result<[(&'static str, String); 5]> {
    Ok([
        ("config.md", config::page()),
        ("settings.md", settings::page()),
        ("cli.md", commands()),
        ("metrics.md", metrics::page()?),
        ("drop-reasons.md", drops::page()),
    ])
}

fn commands() -> String {
    let options = clap_markdown::MarkdownOptions::new()
        .title("Commands".to_owned())
        .show_footer(false)
        .show_table_of_contents(false);
    let command = Cli::command();
    let text = clap_markdown::help_markdown_command_custom(&command, &options);
    // Trailing white space, which editors and git complain about, is removed.
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_documentation_has_these_pages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference");
        for (name, page) in pages().unwrap() {
            let path = folder.join(name);
            let there = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                there == page,
                "{} is not what the program says; run `cargo xtask docs`",
                path.display()
            );
        }
    }
}
