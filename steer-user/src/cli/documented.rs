//! What the documents tell people to type is understood.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;
use serde_json::Value;

use super::Cli;
use crate::config;

/// A block of code, with the file and line where it begins.
struct Block {
    place: String,
    language: String,
    text: String,
}

/// All documents that tell people what to do. The reference is made of the program itself, and explanations
/// have tables.
fn documents() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![top.join("README.md"), top.join("CONTRIBUTING.md")];
    let mut folders = vec![top.join("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("reference") && !path.ends_with("explain") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(path);
            }
        }
    }
    found
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    open = Some(Block {
                        place: format!("{}:{}", path.display(), number + 1),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (None, Some(block)) => block.text += &format!("{}\n", line.trim_start()),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block has no end", path.display());
    }
    blocks
}

/// The words of each command of steer in a block, as a shell splits them; without comments, and only
/// up to where another program reads or writes.
fn commands(block: &Block) -> Vec<Vec<String>> {
    let text = block.text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        if !line.starts_with("steer ") {
            continue;
        }
        let words = shlex::split(line)
            .unwrap_or_else(|| panic!("{}: {line}: quotes do not match", block.place));
        let is_steers = |word: &String| !["|", ">", "&&", ";", "&"].contains(&word.as_str());
        found.push(words.into_iter().take_while(is_steers).collect());
    }
    found
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut seen = 0;
    for block in blocks().iter().filter(|block| block.language.is_empty()) {
        for words in commands(block) {
            let parsed = Cli::command().try_get_matches_from(&words);
            if let Err(error) = parsed {
                panic!("{}: {}: {error}", block.place, words.join(" "));
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} commands were found");
}

/// The keys of a section of the configuration.
fn keys<'a>(schema: &'a Value, section: &str) -> Option<&'a serde_json::Map<String, Value>> {
    let property = schema["properties"].get(section)?.to_string();
    let (_, reference) = property.split_once("#/$defs/")?;
    let (name, _) = reference.split_once('"')?;
    schema["$defs"][name]["properties"].as_object()
}

#[test]
fn every_key_in_the_documents_is_one() {
    let schema = config::schema();
    let mut seen = 0;
    for block in blocks().iter().filter(|block| block.language == "toml") {
        let table: toml::Table = block
            .text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", block.place));
        for (section, value) in &table {
            let known = keys(&schema, section)
                .unwrap_or_else(|| panic!("{}: no section {section}", block.place));
            let tables = match value {
                toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table),
                one => std::slice::from_ref(one)
                    .iter()
                    .filter_map(toml::Value::as_table),
            };
            for key in tables.flat_map(toml::Table::keys) {
                assert!(
                    known.contains_key(key),
                    "{}: section {section} has no key {key}",
                    block.place
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} keys were found");
}
