//! Tests of the binary as users run it.

#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use steer_probe::pki::{self, Identity, IdentityKind, Validity};

const PROGRAM: &str = env!("CARGO_BIN_EXE_steer-beacon");

fn beacon(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[track_caller]
fn prints(arguments: &[&str]) -> String {
    let output = beacon(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn issue(dir: &Path) {
    pki::init(dir).unwrap();
    let identity = Identity::new(IdentityKind::Beacon, "eu", "b1").unwrap();
    let day = Validity::for_next(Duration::from_secs(86_400));
    pki::issue(dir, &identity, day, &[]).unwrap();
}

#[test]
fn a_beacon_starts_and_stops_on_sigterm() {
    let temp = tempfile::tempdir().unwrap();
    issue(temp.path());
    let file = |name: &str| temp.path().join(name);
    let mut beacon = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--ca"])
        .arg(file("ca.pem"))
        .arg("--cert")
        .arg(file("b1.pem"))
        .arg("--key")
        .arg(file("b1.key"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(beacon.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("beacon answers"), "{line}");
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(beacon.id().cast_signed(), libc::SIGTERM) };
    assert!(beacon.wait().unwrap().success());
}

#[test]
fn a_beacon_without_certificate_says_so() {
    let files = ["--cert", "/no.pem", "--key", "/no.key"];
    let output = beacon(&[&["--listen", "127.0.0.1:0"], &files[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/no.pem"), "{said}");
    assert_eq!(beacon(&[]).status.code(), Some(2));
}

#[test]
fn completions_manual_page_and_profiles_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let text = prints(&["--print-completions", shell]);
        assert!(text.contains("drain-file"), "{shell}: {text}");
    }
    let page = prints(&["--print-man"]);
    assert!(page.contains("probe\\-budget"), "{page}");
    let profile = prints(&["--print-profile", "llama.cpp"]);
    assert!(profile.contains("llamacpp:"), "{profile}");
}
