//! The binary as users run it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
fn a_beacon_starts_and_stops_on_sigterm() {
    let temp = tempfile::tempdir().unwrap();
    let dir = pki(temp.path());
    let file = |name: &str| format!("{dir}/{name}");
    let mut beacon = Command::new(env!("CARGO_BIN_EXE_steer"))
        .args(["beacon", "--listen", "127.0.0.1:0"])
        .args(["--ca", &file("ca.pem")])
        .args(["--cert", &file("b1.pem"), "--key", &file("b1.key")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(beacon.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("beacon answers"), "{line}");
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(beacon.id() as i32, libc::SIGTERM) };
    assert!(beacon.wait().unwrap().success());
}

#[test]
fn a_beacon_without_certificate_says_so() {
    let arguments = [
        "beacon",
        "--listen",
        "127.0.0.1:0",
        "--cert",
        "/no.pem",
        "--key",
        "/no.key",
    ];
    fails(1, "/no.pem", &arguments);
}
