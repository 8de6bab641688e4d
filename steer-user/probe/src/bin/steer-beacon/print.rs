//! Options that print a text and exit: profiles, and parts of packages and of the book.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use steer_probe::beacon::Engine;

use super::Options;

#[derive(Debug, Args)]
#[command(next_help_heading = "Print and exit")]
#[group(id = "print", multiple = false)]
pub(super) struct Print {
    /// Print the profile of an engine.
    #[arg(long, value_name = "ENGINE")]
    print_profile: Option<Engine>,
    /// Print the completions of a shell.
    #[arg(long, value_name = "SHELL")]
    print_completions: Option<Shell>,
    /// Print the manual page.
    #[arg(long)]
    print_man: bool,
    /// Print the reference of the documentation as Markdown.
    #[arg(long, hide = true)]
    print_reference: bool,
}

impl Print {
    /// Returns the text to print, or `None` if the beacon is to run.
    pub(super) fn text(&self) -> Option<Result<String>> {
        if let Some(engine) = self.print_profile {
            return Some(Ok(engine.text().to_owned()));
        }
        if let Some(shell) = self.print_completions {
            return Some(completions(shell));
        }
        if self.print_man {
            return Some(man());
        }
        self.print_reference.then(|| Ok(reference()))
    }
}

fn completions(shell: Shell) -> Result<String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), "steer-beacon", &mut text);
    Ok(String::from_utf8(text)?)
}

fn man() -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Options::command()).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

fn reference() -> String {
    let options = clap_markdown::MarkdownOptions::new()
        .title("The beacon's command".to_owned())
        .show_footer(false)
        .show_table_of_contents(false);
    let text = clap_markdown::help_markdown_command_custom(&Options::command(), &options);
    // Trailing white space, which editors and git complain about, is removed.
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn the_documentation_has_the_reference() {
        let page = repository().join("docs/src/reference/beacon.md");
        let there = fs::read_to_string(&page).unwrap_or_default();
        assert!(
            there == reference(),
            "{} is not what the program says; run `cargo xtask docs`",
            page.display()
        );
    }

    #[test]
    fn only_what_prints_needs_no_certificate() {
        let parse = |arguments: &[&str]| {
            Options::command().try_get_matches_from([&["steer-beacon"], arguments].concat())
        };
        parse(&["--print-profile", "vllm"]).unwrap();
        parse(&["--print-completions", "bash"]).unwrap();
        parse(&["--print-man"]).unwrap();
        parse(&["--cert", "b.pem", "--key", "b.key"]).unwrap();
        for bad in [
            &[][..],
            &["--cert", "b.pem"],
            &["--print-man", "--print-profile", "vllm"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    /// The book and the README tell people to type these.
    #[test]
    fn commands_in_the_documents_are_understood() {
        let mut seen = 0;
        for name in [
            "README.md",
            "docs/src/howto/beacon.md",
            "docs/src/explain/figures.md",
        ] {
            let text = fs::read_to_string(repository().join(name)).unwrap();
            let text = text.replace("\\\n", " ");
            let lines = text.lines().map(str::trim_start);
            for line in lines.filter(|line| line.starts_with("steer-beacon ")) {
                let words = shlex::split(line).unwrap();
                if let Err(error) = Options::command().try_get_matches_from(&words) {
                    panic!("{name}: {line}: {error}");
                }
                seen += 1;
            }
        }
        assert!(seen >= 3, "only {seen} commands were found");
    }
}
