//! Tests of `steer config` and `steer journal` as users run them, without a daemon.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const EXAMPLE: &str = include_str!("../../../deploy/steer.toml");

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steer"));
    command.args(arguments);
    command
}

fn steer(arguments: &[&str]) -> Said {
    said(command(arguments).output().unwrap())
}

/// Creates a folder with a modified example, and drop-ins.
fn folder(
    change: impl Fn(&str) -> String,
    drop_ins: &[(&str, &str)],
) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steer.toml");
    fs::write(&file, change(EXAMPLE)).unwrap();
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    for (name, text) in drop_ins {
        fs::write(folder.path().join("conf.d").join(name), text).unwrap();
    }
    (folder, file.display().to_string())
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

#[test]
fn the_example_is_a_configuration_and_the_schema_a_schema() {
    let example = steer(&["config", "example"]);
    assert_eq!((example.code, example.out.as_str()), (Some(0), EXAMPLE));
    let schema = steer(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema.out).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let (_folder, file) = folder(str::to_owned, &[("1.toml", "[probe]\nrise = 3\n")]);
    let checked = steer(&["config", "check", "--document-only", &file]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(
        checked
            .out
            .ends_with("valid: 1 services, 2 pools, 3 backends in 2 files\n")
    );
}

#[test]
fn a_mistake_in_a_drop_in_is_told_with_its_file() {
    let (folder, file) = folder(
        str::to_owned,
        &[
            ("1.toml", "[probe]\nrise = 3\n"),
            ("2.toml", "\n[probe]\nrise = 0\n"),
        ],
    );
    let checked = steer(&["config", "check", &file]);
    assert_eq!(checked.code, Some(3));
    let start = format!(
        "{}:3: 0 is out of range",
        text(folder.path().join("conf.d/2.toml"))
    );
    assert!(checked.err.starts_with(&start), "{}", checked.err);
    let verdict = format!("\n{file}: invalid: 1 mistake\n");
    assert!(checked.err.ends_with(&verdict), "{}", checked.err);
    assert_eq!(checked.err.lines().count(), 2, "{}", checked.err);
    let json = steer(&["config", "check", "--json", &file]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["good"], false);
    assert!(json["problems"][0].as_str().unwrap().starts_with(&start));
}

#[test]
fn variables_come_from_the_environment_and_are_not_printed() {
    let (_folder, file) = folder(|text| text.replace("192.0.2.80", "${STEER_TEST_VIP}"), &[]);
    let check = |value: Option<&str>| {
        let mut command = command(&["config", "check", "--document-only", &file]);
        match value {
            Some(value) => command.env("STEER_TEST_VIP", value),
            None => command.env_remove("STEER_TEST_VIP"),
        };
        said(command.output().unwrap())
    };
    assert_eq!(check(Some("192.0.2.80")).code, Some(0));
    let unset = check(None);
    assert_eq!(unset.code, Some(3));
    assert!(
        unset.err.contains("variable STEER_TEST_VIP is not set"),
        "{}",
        unset.err
    );
    let bad = check(Some("hunter2"));
    assert_eq!(bad.code, Some(3));
    assert!(bad.err.contains("${STEER_TEST_VIP}"), "{}", bad.err);
    assert!(!format!("{}{}", bad.out, bad.err).contains("hunter2"));
}

#[test]
fn a_host_that_does_not_fit_fails_unless_only_the_document_counts() {
    let (_folder, file) = folder(|text| text.replace("eth0", "no-such-if"), &[]);
    let loose = steer(&["config", "check", &file]);
    assert_eq!(loose.code, Some(3), "{}", loose.err);
    assert!(
        loose.err.contains("this host does not fit (1 fatal"),
        "{}",
        loose.err
    );
    assert!(
        loose
            .out
            .contains("fatal: interface no-such-if: this host has no interface"),
        "{}",
        loose.out
    );
    // One verdict, not two.
    assert!(!loose.out.contains("valid:"), "{}", loose.out);
    assert_eq!(steer(&["config", "check", "--strict", &file]).code, Some(3));
    let quiet = steer(&["config", "check", "--document-only", &file]);
    assert_eq!(quiet.code, Some(0), "{}", quiet.err);
    assert!(!quiet.out.contains("no-such-if"), "{}", quiet.out);
}

/// Checks that certificates are read wherever they are, and reported with the line of their key.
#[test]
fn a_key_of_another_certificate_is_told_with_its_line() {
    let (folder, file) = folder(str::to_owned, &[]);
    let pki = text(folder.path().join("pki"));
    for arguments in [
        &["pki", "init", "--dir", &pki][..],
        &[
            "pki", "issue", "node", "edge-1", "--region", "eu-west", "--dir", &pki,
        ],
        &[
            "pki", "issue", "beacon", "gpu-1", "--region", "eu-west", "--dir", &pki,
        ],
    ] {
        let made = steer(arguments);
        assert_eq!(made.code, Some(0), "{}", made.err);
    }
    let document = fs::read_to_string(&file).unwrap();
    let line_of = |key: &str| {
        let begins = |line: &str| line.starts_with(key) && line.contains("/pki/");
        1 + document.lines().position(begins).unwrap()
    };
    let node = format!("{pki}/edge-1");
    for (cert, key, says) in [
        ("edge-1.pem", "gpu-1.key", "fatal: [probe] key: "),
        ("edge-1.key", "edge-1.key", "fatal: [probe] cert and key: "),
    ] {
        let changed: String = document
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some(("ca", path)) if path.contains("/pki/") => format!("ca = \"{pki}/ca.pem\"\n"),
                Some(("cert", path)) if path.contains("/pki/") => {
                    format!("cert = \"{pki}/{cert}\"\n")
                }
                Some(("key", path)) if path.contains("/pki/") => format!("key = \"{pki}/{key}\"\n"),
                _ => format!("{}\n", line.replace("eth0", "no-such-if")),
            })
            .collect();
        fs::write(&file, changed).unwrap();
        let checked = steer(&["config", "check", &file]);
        assert_eq!(checked.code, Some(3), "{node}: {}", checked.err);
        let line = line_of(if says.contains("cert") { "cert" } else { "key" });
        let begins = format!("{file}:{line}: {says}");
        assert!(checked.out.contains(&begins), "{begins}: {}", checked.out);
    }
}

#[test]
fn what_needs_a_daemon_says_so() {
    let (folder, file) = folder(str::to_owned, &[]);
    let socket = text(folder.path().join("none.sock"));
    for arguments in [
        &["config", "diff", &file][..],
        &["config", "apply", &file, "--confirm-within", "10m"],
        &["config", "confirm"],
        &["config", "rollback", "3"],
        &["config", "history"],
        &["config", "show"],
    ] {
        let said = steer(&[arguments, &["--socket", &socket]].concat());
        assert_eq!(said.code, Some(4), "{arguments:?}: {}", said.err);
    }
    let missing = steer(&["config", "apply", "/nowhere.toml", "--socket", &socket]);
    assert_eq!(missing.code, Some(3), "{}", missing.err);
    let window = steer(&["config", "apply", &file, "--confirm-within", "soon"]);
    assert_eq!(window.code, Some(2), "{}", window.err);
}

#[test]
fn a_state_directory_is_read_without_a_daemon() {
    let state = tempfile::tempdir().unwrap();
    let place = text(state.path());
    let history = steer(&["config", "history", "--state", &place]);
    assert_eq!((history.code, history.out.lines().count()), (Some(0), 1));
    let show = steer(&["config", "show", "--state", &place]);
    assert_eq!(show.code, Some(1));
    assert!(
        show.err.contains("no generation is in use here"),
        "{}",
        show.err
    );
    for command in ["show", "verify", "replay"] {
        let said = steer(&["journal", command, "--state", &place]);
        assert_eq!(said.code, Some(1));
        assert!(
            said.err.contains("name the daemon's state directory"),
            "{}",
            said.err
        );
    }
    fs::create_dir(state.path().join("journal")).unwrap();
    let verify = steer(&["journal", "verify", "--state", &place]);
    assert_eq!(
        (verify.code, verify.out.as_str()),
        (Some(0), "there are no lines\n")
    );
}

#[test]
fn a_state_directory_has_one_daemon() {
    let (folder, file) = folder(str::to_owned, &[]);
    let state: PathBuf = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let lock = File::create(state.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let run = steer(&["run", "--config", &file, "--state", &text(&state)]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains("another daemon uses this state directory"),
        "{}",
        run.err
    );
    // Nothing was written concurrently with the daemon.
    assert!(!state.join("generations").exists());
}

#[test]
fn a_daemon_without_generation_does_not_start_on_a_wrong_file() {
    let (folder, file) = folder(|text| text.replace("[node]", "[nod]"), &[]);
    let state = folder.path().join("state");
    let run = steer(&["run", "--config", &file, "--state", &text(&state)]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(
        run.err.contains("steer.toml:5: unknown section `nod`"),
        "{}",
        run.err
    );
    assert!(!state.join("generations").exists());
}
