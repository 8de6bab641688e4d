//! Tests of the binary as users run it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

fn steer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steer"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(arguments: &[&str]) {
    let output = steer(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
}

#[track_caller]
fn fails(code: i32, says: &str, arguments: &[&str]) {
    let output = steer(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(says), "{arguments:?}: {said}");
}

fn pki(dir: &Path) -> &str {
    let dir = dir.to_str().unwrap();
    succeeds(&["pki", "init", "--dir", dir]);
    succeeds(&[
        "pki", "issue", "beacon", "b1", "--region", "eu", "--dir", dir,
    ]);
    dir
}

#[test]
fn pki_makes_and_never_overwrites() {
    let temp = tempfile::tempdir().unwrap();
    let dir = pki(temp.path());
    assert!(temp.path().join("b1.key").exists());
    fails(1, "is not overwritten", &["pki", "init", "--dir", dir]);
    let misnamed = [
        "pki", "issue", "node", "../x", "--region", "eu", "--dir", dir,
    ];
    fails(2, "not a host name", &misnamed);
    fails(2, "required", &["pki", "issue", "node", "n1", "--dir", dir]);
}

#[test]
fn config_check_tells_all_that_is_wrong() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("steer.toml");
    let good = include_str!("../../../deploy/steer.toml");
    std::fs::write(&file, good).unwrap();
    succeeds(&["config", "check", "--document-only", file.to_str().unwrap()]);

    let bad = good
        .replace("\"eth0\"", "\"\"")
        .replace("\"local\", \"remote\"", "\"lokal\"");
    std::fs::write(&file, &bad).unwrap();
    let output = steer(&["config", "check", file.to_str().unwrap()]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3));
    let file = file.display();
    let (lines, verdict) = said.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(verdict, format!("{file}: invalid: 3 mistakes"));
    let lines: Vec<_> = lines.lines().collect();
    // Names of the interface, and of the pool used by service and class.
    let wrong = ["interfaces = [\"\"]", "pools = [\"lokal\"]"];
    let numbers: Vec<usize> = (1..)
        .zip(bad.lines())
        .filter(|(_, line)| wrong.iter().any(|wrong| line.starts_with(wrong)))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(numbers.len(), 3);
    assert_eq!(lines.len(), numbers.len(), "{said}");
    for (line, number) in lines.iter().zip(numbers) {
        assert!(line.starts_with(&format!("{file}:{number}: ")), "{said}");
    }
    fails(
        3,
        "No such file",
        &["config", "check", "/nowhere/steer.toml"],
    );
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = steer(&["completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("rollback"), "{shell}: {text}");
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("man1");
    succeeds(&["man", folder.to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.join("steer-config-apply.1")).unwrap();
    assert!(page.contains("confirm\\-within"), "{page}");
    assert!(folder.join("steer.1").exists());
}
