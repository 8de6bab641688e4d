//! Typical mistakes in files: each one is reported once, on its line, with its cause and a
//! correction.

mod cases;

use std::fs;
use std::path::Path;

use super::*;

/// Valid document whose line numbers the tests use.
pub(super) const GOOD: &str = r#"[node]
name = "edge-1"
region = "home"
interfaces = ["eth0", "eth1"]
[nat]
addresses = ["10.0.0.11"]
[probe]
interval = "100ms"
ca = "/pki/ca.pem"
cert = "/pki/edge-1.pem"
key = "/pki/edge-1.key"
[[backend]]
name = "gpu-1"
address = "10.0.1.1"
mode = "nat"
port = 8000
capacity = 2
beacon = "10.0.1.1:7100"
[[backend]]
name = "gpu-2"
address = "10.0.2.1"
mode = "nat"
port = 8000
beacon = "10.0.2.1:7100"
[[pool]]
name = "chat"
backends = ["gpu-1", "gpu-2"]
[[service]]
name = "chat"
address = "192.0.2.80"
port = 80
protocol = "tcp"
pools = ["chat"]
[api]
metrics = "127.0.0.1:9464"
"#;

/// A text of the valid document and its replacement; the line, the cause, and the advice.
pub(super) type Wrong = (
    &'static str,
    &'static str,
    usize,
    &'static str,
    &'static str,
);

pub(super) fn lines(text: &str) -> Vec<String> {
    let Err(ConfigError::Invalid { problems }) = Config::parse(text, Path::new("f.toml")) else {
        panic!("nothing is wrong with {text}");
    };
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn each_mistake_is_told_once_with_its_line_its_cause_and_what_to_do() {
    for cases in cases::ALL {
        check(cases);
    }
}

pub(super) fn check(all: &[Wrong]) {
    Config::parse(GOOD, Path::new("f.toml")).unwrap();
    let mut wrong = Vec::new();
    for (from, to, line, cause, todo) in all {
        assert!(GOOD.contains(from), "{from:?} is not in the document");
        let said = lines(&GOOD.replacen(from, to, 1));
        let [said] = &said[..] else {
            wrong.push(format!("{to:?} is told {} times: {said:#?}", said.len()));
            continue;
        };
        let (what, rest) = said.split_once("; ").unwrap_or((said, ""));
        let is_told =
            said.starts_with(&format!("{line}: ")) && what.contains(cause) && rest.contains(todo);
        // Names of Rust types do not help the reader.
        let words = [
            "u16",
            "u32",
            "i128",
            "invalid",
            "variant",
            "expected",
            "write nothing",
        ];
        if !is_told || words.iter().any(|word| said.contains(word)) {
            wrong.push(format!("{to:?}, {line}, {cause:?}, {todo:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn several_mistakes_of_one_section_are_told_at_once() {
    let text = GOOD
        .replacen("interfaces =", "interface =", 1)
        .replacen("mode = \"nat\"", "mode = \"dsr\"", 1)
        .replacen("capacity = 2", "capacity = \"2\"", 1)
        .replacen("\"10.0.2.1\"", "\"gpu2\"", 1)
        .replacen("port = 80\n", "port = \"80\"\n", 1)
        .replacen("\"tcp\"", "\"sctp\"", 1);
    let said = lines(&text);
    let starts: Vec<&str> = said.iter().map(|s| s.split(':').next().unwrap()).collect();
    assert_eq!(starts, ["4", "15", "17", "21", "31", "32"], "{said:#?}");
}

#[test]
fn no_end_of_mistakes_is_told_of_one_section() {
    let many: String = (0..1000).map(|i| format!("zz{i} = 1\n")).collect();
    let said = lines(&GOOD.replacen("[nat]\n", &format!("[nat]\n{many}"), 1));
    assert_eq!(said.len(), 8, "{said:#?}");
}

#[test]
fn files_of_another_kind_are_named_once() {
    for (text, line, kind) in [
        (
            "node:\n  name: edge-1\n  interfaces: [eth0]\nservices:\n  - name: chat\n",
            1,
            "this is YAML",
        ),
        ("# ours\n---\nnode:\n  name: edge-1\n", 2, "this is YAML"),
        ("{\"node\": {\"name\": \"edge-1\"}}", 1, "this is JSON"),
        (
            "<html>\n<body>404</body></html>\n",
            1,
            "this is HTML or XML",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMIGH\n",
            1,
            "this is a certificate or a key",
        ),
        (
            "frontend chat\n  bind :80\n  default_backend gpus\n",
            1,
            "a configuration of HAProxy",
        ),
        ("\0\u{1}\u{2}steer", 1, "this is a binary file"),
    ] {
        let said = lines(text);
        let [said] = &said[..] else {
            panic!("{kind}: {said:#?}");
        };
        let begins = format!("{line}: {kind}");
        assert!(
            said.starts_with(&begins) || said.contains(kind),
            "{kind}: {said}"
        );
        assert!(
            said.contains("steer reads TOML; `steer config example`"),
            "{said}"
        );
    }
    for empty in ["", "\n\n", "# nothing yet\n"] {
        let said = lines(empty);
        assert_eq!(
            said,
            ["1: it is empty; `steer config example` prints a file to begin with"]
        );
    }
}

#[test]
fn bytes_that_are_no_text_have_a_line_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steer.toml");
    for (bytes, says) in [
        (
            &b"[node]\nname = \"gr\xfc\xdf\"\n"[..],
            "steer.toml:2: byte 0xfc is not UTF-8; write TOML, saved as UTF-8",
        ),
        (
            b"\x7fELF\x02\x00\x80",
            "steer.toml:1: this is a binary file; write TOML",
        ),
        (
            b"\xff\xfe[\0n\0o\0",
            "steer.toml:1: the file is UTF-16; write TOML, saved as UTF-8",
        ),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.ends_with(says) || error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = Config::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("this is a folder; name the file in it"),
        "{error}"
    );
}

/// Checks that no message shows any part of a variable's value, not even in a suggestion.
#[test]
fn no_part_of_a_variable_is_told() {
    for (from, to, secret) in [
        ("\"10.0.1.1:7100\"", "\"${SECRET}\"", "hunter2:7100"),
        ("\"10.0.1.1:7100\"", "\"${SECRET}\"", "10.77.66.55"),
        ("\"10.0.1.1:7100\"", "\"${SECRET}:0\"", "10.77.66.55"),
        (
            "address = \"10.0.1.1\"",
            "address = \"${SECRET}\"",
            "10.77.66.55/32",
        ),
        (
            "address = \"10.0.1.1\"",
            "address = \"${SECRET}\"",
            "hunter2.example.org",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "224.77.66.55",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "127.77.66.55",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "FF02:0::77",
        ),
        ("\"127.0.0.1:9464\"", "\"${SECRET}\"", "hunter2:9464"),
        ("\"127.0.0.1:9464\"", "\"${SECRET}\"", "7766"),
        (
            "beacon = \"10.0.1.1:7100\"",
            "probes = [\"${SECRET}\"]",
            "http://hunter2:8000/x",
        ),
        (
            "beacon = \"10.0.1.1:7100\"",
            "probes = [\"${SECRET}\"]",
            "/hunter2",
        ),
        ("\"tcp\"", "\"${SECRET}\"", "hunter2"),
        ("\"100ms\"", "\"${SECRET}\"", "hunter2"),
        ("\"100ms\"", "\"${SECRET}\"", "7766m"),
        ("pools = [\"chat\"]", "pools = [\"${SECRET}\"]", "chatt"),
        ("port = 80\n", "port = \"${SECRET}\"\n", "7766"),
    ] {
        let document = Document::single(Path::new("f.toml"), &GOOD.replacen(from, to, 1));
        let variable = |name: &str| (name == "SECRET").then(|| secret.to_owned());
        let error = document.config_with(&variable).unwrap_err().to_string();
        let parts = secret.split([':', '/']).filter(|part| part.len() > 3);
        for part in parts.filter(|part| !["http", "7100", "9464", "8000"].contains(part)) {
            assert!(!error.contains(part), "{part:?} of {to} is in {error}");
        }
        let names = error.contains("SECRET") || error.contains("0 is not a port");
        assert!(names, "{error}");
    }
}
