use std::fs;
use std::path::Path;

use super::*;

const NODE: &str = "[node]\nname = \"n1\"\nregion = \"eu\"\ninterfaces = [\"eth0\"]\n";
const NAT: &str = "[nat]\naddresses = [\"10.0.0.1\"]\nports = \"1000-2000\"\n";

fn backend(name: &str, last: u8) -> String {
    format!("[[backend]]\nname = \"{name}\"\naddress = \"10.0.1.{last}\"\nmode = \"nat\"\n")
}

fn service(pool: &[&str]) -> String {
    format!(
        "[[pool]]\nname = \"p\"\nbackends = {pool:?}\n[[service]]\nname = \"s\"\n\
         address = \"192.0.2.1\"\nport = 80\npools = [\"p\"]\n"
    )
}

/// Creates a folder with a main file and these drop-ins.
fn folder(main: &str, drop_ins: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("steer.toml"), main).unwrap();
    fs::create_dir(folder.path().join(DROP_INS)).unwrap();
    for (name, text) in drop_ins {
        fs::write(folder.path().join(DROP_INS).join(name), text).unwrap();
    }
    folder
}

fn said(error: &ConfigError, folder: &Path) -> Vec<String> {
    let root = format!("{}/", folder.display());
    let text = error.to_string().replace(&root, "");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn drop_ins_add_lists_and_replace_keys_in_the_order_of_their_names() {
    let main = [NODE, NAT, &backend("a", 1), &service(&["a", "b"])].concat();
    let folder = folder(
        &main,
        &[
            ("20-late.toml", "[nat]\nports = \"5000-6000\"\n"),
            ("10-b.toml", &backend("b", 2)),
            (
                "10-nat.toml",
                "[nat]\nports = \"3000-4000\"\n[probe]\nrise = 9\n",
            ),
            (".hidden.toml", "nonsense"),
            ("notes.txt", "nonsense"),
        ],
    );
    let document = Document::read(&folder.path().join("steer.toml")).unwrap();
    assert_eq!(document.files.len(), 4);
    let config = document.config().unwrap();
    let names: Vec<_> = config.backends.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.nat.ports, 5000..=6000);
    // Keys that the later file does not mention keep their values.
    assert_eq!(config.nat.addresses.len(), 1);
    assert_eq!(config.probe.rise, 9);
}

#[test]
fn each_mistake_names_its_file_and_line() {
    let main = [NODE, NAT, &backend("a", 1), &service(&["a"])].concat();
    let again = format!("\n\n{}", backend("a", 2));
    let folder = folder(
        &main,
        &[
            ("1.toml", &again),
            ("2.toml", "[probe]\nrise = 0\n"),
            (
                "3.toml",
                "# it counts, as the later one\n[probe]\nrise = 101\nfall = 0",
            ),
            ("4.toml", "[[probe]]\nrise = 1\n"),
        ],
    );
    let file = folder.path().join("steer.toml");
    let error = Config::load(&file).unwrap_err();
    let lines = said(&error, folder.path());
    assert!(
        lines[0].starts_with("conf.d/1.toml:4: two backends"),
        "{lines:#?}"
    );

    fs::remove_file(folder.path().join("conf.d/4.toml")).unwrap();
    fs::remove_file(folder.path().join("conf.d/1.toml")).unwrap();
    let lines = said(&Config::load(&file).unwrap_err(), folder.path());
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[0].starts_with("conf.d/3.toml:3: 101 is out of range"),
        "{lines:#?}"
    );
    assert!(
        lines[1].starts_with("conf.d/3.toml:4: 0 is out of range"),
        "{lines:#?}"
    );

    // Syntax errors are reported for every file, and nothing is built from the rest.
    fs::write(folder.path().join("conf.d/2.toml"), "\n[probe\n").unwrap();
    fs::write(folder.path().join("conf.d/3.toml"), "a = \n").unwrap();
    let lines = said(&Config::load(&file).unwrap_err(), folder.path());
    assert!(lines[0].starts_with("conf.d/2.toml:2: "), "{lines:#?}");
    assert!(
        lines.iter().any(|l| l.starts_with("conf.d/3.toml:1: ")),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|l| l.starts_with("steer.toml")),
        "{lines:#?}"
    );
}

#[test]
fn a_drop_in_of_another_kind_is_refused() {
    let main = [NODE, NAT, &backend("a", 1), &service(&["a"])].concat();
    let folder = folder(&main, &[("1.toml", "[pool]\nname = \"q\"\n")]);
    let error = Config::load(&folder.path().join("steer.toml")).unwrap_err();
    let lines = said(&error, folder.path());
    assert!(
        lines.iter().any(|l| l.contains("two brackets")),
        "{lines:#?}"
    );
}

#[test]
fn variables_are_expanded_and_never_told() {
    let main = [NODE, NAT, &backend("a", 1), &service(&["a"])]
        .concat()
        .replace("\"192.0.2.1\"", "\"${VIP}\"")
        .replace("\"eu\"", "\"${REGION}-west\"");
    let document = Document::single(Path::new("f.toml"), &main);
    let with = |vip: &'static str| {
        move |name: &str| match name {
            "VIP" => Some(vip.to_owned()),
            "REGION" => Some("eu".to_owned()),
            _ => None,
        }
    };
    let config = document.config_with(&with("192.0.2.7")).unwrap();
    assert_eq!(config.services[0].address.to_string(), "192.0.2.7");
    assert_eq!(config.node.region, "eu-west");
    assert!(document.files[0].text.contains("${VIP}"));

    for secret in ["hunter2", "2001:db8::9", "with \"quotes\" and \n"] {
        let error = document.config_with(&with(secret)).unwrap_err().to_string();
        assert!(error.contains("${VIP}"), "{error}");
        assert!(
            !error.contains(secret) && !error.contains("quotes"),
            "{error}"
        );
    }
    let error = document.config_with(&|_| None).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].starts_with("f.toml:3: variable REGION is not set"),
        "{error}"
    );
    assert!(
        lines[1].starts_with("f.toml:17: variable VIP is not set"),
        "{error}"
    );
}

#[test]
fn changes_are_told_in_the_words_of_the_files() {
    let older = [
        NODE,
        NAT,
        &backend("a", 1),
        &backend("b", 2),
        &service(&["a"]),
    ]
    .concat();
    let newer = older
        .replace("ports = \"1000-2000\"\n", "")
        .replace("10.0.1.1", "${SECRET}")
        .replace("\"b\"", "\"c\"")
        .replace("port = 80", "port = 81");
    let document = |text: &str| Document::single(Path::new("f.toml"), text);
    let lines = document(&newer).changes_since(&document(&older));
    assert_eq!(
        lines,
        [
            "[nat]: ports \"1000-2000\" -> unset",
            "backend \"a\": address \"10.0.1.1\" -> \"${SECRET}\"",
            "backend \"b\" is gone",
            "backend \"c\" is new",
            "service \"s\": port 80 -> 81",
        ]
    );
    assert!(document(&older).changes_since(&document(&older)).is_empty());
}

#[test]
fn a_key_is_found_in_what_is_no_toml() {
    let document = |text: &str| Document::single(Path::new("f.toml"), text);
    for (text, want) in [
        ("[node\n  state_dir = \"/a b\"  # here\n", Some("/a b")),
        ("state_dir='/a'", Some("/a")),
        (
            "#state_dir = \"/a\"\nstate_dirs = \"/b\"\nstate_dir = 1",
            None,
        ),
        ("state_dir = \"/a", None),
        ("", None),
    ] {
        assert_eq!(document(text).hint("state_dir"), want, "{text}");
    }
}

#[test]
fn a_fingerprint_goes_by_what_is_said_not_by_where() {
    let one = Document::single(Path::new("/a"), "x");
    assert_eq!(
        one.fingerprint(),
        Document::single(Path::new("/b"), "x").fingerprint()
    );
    let mut two = one.clone();
    two.files.push(two.files[0].clone());
    let joined = Document::single(Path::new("/a"), "xx");
    assert_ne!(two.fingerprint(), one.fingerprint());
    assert_ne!(two.fingerprint(), joined.fingerprint());
}

/// Returns a document with one more key in its backend.
fn with(key: &str) -> Document {
    let text = format!(
        "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n[[backend]]\nname = \"b\"\n{key}\n"
    );
    Document::single(Path::new("/etc/steer/steer.toml"), &text)
}

#[test]
fn variables_elsewhere_than_in_the_known_document_are_found() {
    let known = with("address = \"${A}\"\nregion = \"x-${B}\"\nzone = \"$${C}\"");
    for (key, found) in [
        ("address = \"${A}\"", None),
        ("region = \"x-${B}\"", None),
        ("zone = \"$${C}\"", None),
        ("zone = \"$${A}\"", None),
        // Another variable, at another key, with more text around it, after an existing plain text,
        // in a list.
        ("address = \"${B}\"", Some("address")),
        ("zone = \"${A}\"", Some("zone")),
        ("region = \"${B}\"", Some("region")),
        ("zone = \"${C}\"", Some("zone")),
        ("probes = [\"beacon\", \"http:1/${A}\"]", Some("probes")),
        // In a second backend of the same name.
        (
            "address = \"${A}\"\n[[backend]]\nname = \"b\"\naddress = \"1${A}\"",
            Some("address"),
        ),
    ] {
        let found: Vec<String> = found
            .map(|key| format!("backend \"b\": {key}"))
            .into_iter()
            .collect();
        assert_eq!(with(key).new_variables(&known), found, "{key}");
    }
    let renamed = Document::single(Path::new("/f"), "[[backend]]\nname = \"${A}\"\n");
    assert_eq!(renamed.new_variables(&known).len(), 1);
}

/// Counts the calls of `stop`, one per element visited.
#[test]
fn reading_is_linear_and_stops_when_it_is_told() {
    use std::cell::Cell;
    let steps = |items: usize| {
        let names = vec!["\"all\""; items].join(", ");
        let text = format!(
            "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n[[pool]]\nname = \"p\"\n\
             backends = [{names}]\n"
        );
        let document = Document::single(Path::new("/f.toml"), &text);
        let asked = Cell::new(0_usize);
        let stop = || {
            asked.set(asked.get() + 1);
            false
        };
        let read = document.config_unless(&|_| None, &stop);
        let Err(ConfigError::Invalid { problems }) = read else {
            panic!("it was taken");
        };
        assert!(problems.len() <= 201, "{}", problems.len());
        asked.get()
    };
    let (few, many) = (steps(1_000), steps(20_000));
    assert!(many < 25 * few, "{few} {many}");

    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 100
    };
    let names = vec!["\"all\""; 20_000].join(", ");
    let text = format!("[[pool]]\nname = \"p\"\nbackends = [{names}]\n");
    let document = Document::single(Path::new("/f.toml"), &text);
    let read = document.config_unless(&|_| None, &stop);
    assert!(matches!(read, Err(ConfigError::Stopped)), "{read:?}");
    assert!(asked.get() < 200, "{}", asked.get());
}

#[test]
fn too_many_sections_and_changes_are_not_all_told() {
    let backends = |count: usize| {
        let backend = |i: usize| format!("[[backend]]\nname = \"b{i}\"\naddress = \"10.0.0.1\"\n");
        let text: String = (0..count).map(backend).collect();
        Document::single(Path::new("/f.toml"), &text)
    };
    let many = backends(30_000);
    let error = many.config().unwrap_err().to_string();
    assert!(error.contains("30000 sections of this kind"), "{error}");
    assert!(error.lines().count() < 10, "{error}");
    let changes = many.changes_since(&backends(1));
    assert_eq!(changes.len(), 1001);
    assert_eq!(changes[1000], "and 28999 more");
}
