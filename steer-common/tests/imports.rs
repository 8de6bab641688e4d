//! Imports between the files of this crate: no two files need each other, directly or through others.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Text of files by the path of their module.
type Files = BTreeMap<String, String>;

fn read(folder: &Path, module: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = [module, &name].join("::");
        let inner = inner.trim_start_matches("::");
        if path.is_dir() {
            read(&path, inner, files);
        } else if name != "lib" && name != "tests" {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may use everything.
            let text = text.split("#[cfg(test)]").next().unwrap();
            let module = if name == "mod" { module } else { inner };
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

/// Paths outside of `use` that start with `crate` or `super`.
fn inline_paths(text: &str) -> impl Iterator<Item = String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let words =
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c)));
    let paths = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
    paths.map(|path| path.trim_end_matches(':').to_owned())
}

/// Returns the file that a path leads to, if it is one of the crate's.
fn resolve(path: &str, module: &str, files: &Files) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut base: Vec<&str> = module.split("::").collect();
    match parts[0] {
        "crate" => base.clear(),
        "super" => {
            while parts.get(1) == Some(&"super") {
                base.pop();
                parts.remove(0);
            }
            base.pop();
        }
        "self" => {}
        _ => parts.insert(0, "self"),
    }
    base.extend(&parts[1..]);
    // Items after the file are inside it.
    (1..=base.len()).rev().find_map(|len| {
        let file = base[..len].join("::");
        files.contains_key(&file).then_some(file)
    })
}

fn imports_of(module: &str, text: &str, files: &Files) -> BTreeSet<String> {
    let mut paths = Vec::new();
    for statement in text.split(';') {
        let uses = ["\nuse ", "\n    use "].map(|start| statement.rfind(start));
        if let Some(start) = uses.into_iter().flatten().max() {
            let tree = statement[start..].trim().trim_start_matches("use ");
            expand(tree, "", &mut paths);
        // A file does not need what it re-exports.
        } else if !statement.contains("\npub use ") && !statement.contains("\npub(crate) use ") {
            paths.extend(inline_paths(statement));
        }
    }
    let found = paths.iter().filter_map(|path| resolve(path, module, files));
    found.filter(|file| file != module).collect()
}

/// Files that need each other, or that lead to such files.
fn in_circles(files: &Files) -> BTreeMap<&str, BTreeSet<String>> {
    let mut left: BTreeMap<&str, BTreeSet<String>> = files
        .iter()
        .map(|(module, text)| (module.as_str(), imports_of(module, text, files)))
        .collect();
    loop {
        let names: BTreeSet<String> = left.keys().map(ToString::to_string).collect();
        left.retain(|_, needs| needs.iter().any(|need| names.contains(need)));
        if left.len() == names.len() {
            return left;
        }
    }
}

fn crate_files() -> Files {
    let mut files = Files::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&source, "", &mut files);
    files
}

#[test]
fn no_file_needs_one_that_needs_it() {
    let files = crate_files();
    let circles = in_circles(&files);
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn rooms_are_used_from_top_to_bottom() {
    const ROOMS: [&str; 4] = ["decide", "transmit", "programs", "process"];
    let room_of = |module: &str| {
        let first = module.split("::").next().unwrap();
        ROOMS.iter().position(|room| *room == first)
    };
    let files = crate_files();
    for (module, text) in &files {
        for needed in imports_of(module, text, &files) {
            // Other modules are below all rooms.
            assert!(
                room_of(&needed) <= room_of(module),
                "{module} needs {needed}"
            );
        }
    }
}

#[test]
fn imports_and_circles_are_found() {
    let files: Files = [
        ("top", "pub use a::A;\nuse a::B;"),
        (
            "top::a",
            "\nuse super::{b::{self, X as Y}, c};\n// crate::d",
        ),
        (
            "top::b",
            "\nuse core::fmt;\nfn f() { super::super::d::g() }",
        ),
        ("top::c", ""),
        ("d", "\nuse crate::top::a::A;"),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .collect();
    let imports = |name: &str| imports_of(name, &files[name], &files);
    assert_eq!(imports("top"), ["top::a".to_owned()].into());
    assert_eq!(
        imports("top::a"),
        ["top::b".to_owned(), "top::c".to_owned()].into()
    );
    assert_eq!(imports("top::b"), ["d".to_owned()].into());
    let circles = in_circles(&files);
    let names: Vec<_> = circles.keys().copied().collect();
    assert_eq!(names, ["d", "top", "top::a", "top::b"]);
}
