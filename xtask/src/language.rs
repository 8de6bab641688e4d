//! `cargo xtask language`: holds doc comments and messages to the rules of CONTRIBUTING.

mod docs;
mod lexer;
mod messages;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::run::repository;

/// A sentence that breaks a rule, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    text: String,
    advice: &'static str,
}

/// Checks every Rust file of the repository, and fails with the list of findings.
pub(crate) fn run() -> Result<()> {
    let root = repository();
    let mut count = 0;
    for path in rust_files(&root)? {
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path);
        for Finding { line, text, advice } in check(name, &source) {
            println!("{}:{line}: {text}\n    {advice}", name.display());
            count += 1;
        }
    }
    if count > 0 {
        bail!("{count} comments or messages break the language rules listed above");
    }
    Ok(())
}

/// Returns the findings of one file. Messages of tests are not checked: only their authors read them.
fn check(path: &Path, source: &str) -> Vec<Finding> {
    let mut findings = docs::check(source);
    if !is_test(path) {
        findings.extend(messages::check(source));
    }
    findings
}

/// Returns whether a file holds only tests or tools for tests.
fn is_test(path: &Path) -> bool {
    let in_folder = path
        .iter()
        .any(|part| part == "tests" || part == "fuzz" || part == "testing");
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    in_folder || name == "tests" || name.ends_with("_tests")
}

/// Returns all Rust files below a folder, sorted, without build output and hidden folders.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBUG_LOG: &str = "fn f() { info!(?reason, \"ejected\"); }\n";

    #[test]
    fn messages_of_tests_are_not_checked() {
        for path in ["tests/src/load.rs", "a/src/b/tests.rs", "a/src/b_tests.rs"] {
            assert_eq!(check(Path::new(path), DEBUG_LOG), []);
        }
        assert_eq!(check(Path::new("a/src/b.rs"), DEBUG_LOG).len(), 1);
    }

    #[test]
    fn doc_comments_of_tests_are_checked() {
        let source = "/// What is sent.\nconst SENT: u8 = 1;\n";
        assert_eq!(check(Path::new("tests/src/load.rs"), source).len(), 1);
    }
}
