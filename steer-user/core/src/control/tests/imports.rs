//! Imports between the files of this module: no two files need each other, directly or by way of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Files by the path of their module, within the crate.
type Files = BTreeMap<String, String>;

fn read(folder: &Path, module: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = format!("{module}::{name}");
        if path.is_dir() && name != "tests" {
            read(&path, &inner, files);
        } else if path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may look at everything.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let module = if name == "mod" { module } else { &inner };
            files.insert(module.to_owned(), text.to_owned());
        }
    }
}

/// Paths of a `use` tree.
fn expand(tree: &str, before: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        if !tree.is_empty() {
            paths.push(format!("{before}{tree}"));
        }
        return;
    };
    let before = format!("{before}{prefix}");
    let inner = &rest[..rest.rfind('}').unwrap()];
    let (mut depth, mut start) = (0, 0);
    for (index, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                expand(&inner[start..index], &before, paths);
                start = index + 1;
            }
            _ => {}
        }
    }
    expand(&inner[start..], &before, paths);
}

/// The file that a path of a `use` leads to, if it is one of them.
fn resolve(path: &str, module: &str, files: &Files) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut base: Vec<&str> = module.split("::").collect();
    match parts[0] {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while parts[0] == "super" {
                base.pop();
                parts.remove(0);
            }
            parts.insert(0, "super");
        }
        _ => return None,
    }
    base.extend(&parts[1..]);
    // What is named behind the file is in it.
    (1..=base.len()).rev().find_map(|len| {
        let file = base[..len].join("::");
        files.contains_key(&file).then_some(file)
    })
}

fn imports(files: &Files) -> BTreeMap<&str, BTreeSet<String>> {
    let of = |module: &str, text: &str| -> BTreeSet<String> {
        let mut paths = Vec::new();
        for statement in text.split(';') {
            // What a file re-exports it does not need.
            let line = statement
                .rfind("\nuse ")
                .or_else(|| statement.starts_with("use ").then_some(0));
            if let Some(start) = line {
                expand(
                    statement[start..].trim().trim_start_matches("use "),
                    "",
                    &mut paths,
                );
            }
        }
        let found = paths.iter().filter_map(|path| resolve(path, module, files));
        found.filter(|file| file != module).collect()
    };
    let files = files.iter();
    files
        .map(|(module, text)| (module.as_str(), of(module, text)))
        .collect()
}

#[test]
fn no_file_of_the_module_needs_one_that_needs_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control");
    let mut files = Files::new();
    read(&folder, "control", &mut files);
    let mut left = imports(&files);
    assert!(left["control::controller"].contains("control::planner"));
    // Files that need none of those that are left are in no circle.
    loop {
        let count = left.len();
        let names: BTreeSet<String> = left.keys().map(ToString::to_string).collect();
        left.retain(|_, needs| needs.iter().any(|need| names.contains(need)));
        if left.len() == count {
            break;
        }
    }
    assert!(
        left.is_empty(),
        "these need each other, or lead to such: {left:#?}"
    );
}

#[test]
fn imports_are_found() {
    let files: Files = [
        ("control", "pub use self::a::A;\nuse self::a::B;"),
        (
            "control::a",
            "use super::{b::{self, X as Y}, c};\nuse crate::control::b;",
        ),
        ("control::b", "use std::fmt;"),
        ("control::c", ""),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .collect();
    let found = imports(&files);
    let of = |name: &str| found[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("control"), ["control::a"]);
    // A path that leads to no file of its own leads to the one around it.
    assert_eq!(of("control::a"), ["control::b", "control::c"]);
    assert!(of("control::b").is_empty());
}
