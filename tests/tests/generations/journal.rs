//! Content of the journal, and its verification.

use std::{fs, process::Command};

use steer_tests::fleet::{binary, wait};

use super::*;

#[test]
fn the_journal_tells_of_a_death_replays_it_and_shows_a_forgery() {
    let mut fleet = fleet("nat");
    fleet.kill_backend(0);
    fleet.wait_for_health("one", "down").unwrap();
    fleet.start_backend(0).unwrap();
    fleet.wait_for_health("one", "up").unwrap();
    fleet.cli(&["backend", "drain", "two"]).unwrap();
    fleet.daemon().unwrap().signal(libc::SIGTERM);
    wait(SOON, "the daemon has ended", || {
        Ok(!fleet.daemon()?.is_running())
    })
    .unwrap();
    let said = journal(&fleet, "show").unwrap();
    for words in [
        "of edge started",
        "generation 1 counts (Start, the file)",
        "backend one: health Up -> Down",
        "backend one: health Down -> Up",
        "backend two drains (uid 0 (pid ",
        "slots changed (one)",
        "daemon stopped",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(journal(&fleet, "replay").unwrap().contains(" 0 disagree"));
    let said = journal(&fleet, "verify").unwrap();
    let head = said.trim().rsplit(' ').next().unwrap().to_owned();

    let folder = fleet.state().join("journal");
    let path = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = fs::read_to_string(&path).unwrap();
    let line = 1 + good
        .lines()
        .position(|l| l.contains("\"event\":\"drained\""))
        .unwrap();
    fs::write(
        &path,
        good.replacen("\"drained\":true", "\"drained\":tru3", 1),
    )
    .unwrap();
    let state = fleet.state().display().to_string();
    let verify = |more: &[&str]| {
        let output = Command::new(binary("steer").unwrap())
            .args([&["journal", "verify", "--state", &state], more].concat())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = verify(&[]);
    assert_eq!(code, Some(1));
    let start = format!("{}:{line}: this line was modified", path.display());
    assert!(said.starts_with(&start), "{said}");
    // The end was cut off: only a head noted earlier shows it.
    let shorter: Vec<&str> = good.lines().collect();
    fs::write(&path, shorter[..shorter.len() - 1].join("\n") + "\n").unwrap();
    assert_eq!(verify(&[]).0, Some(0));
    assert_eq!(verify(&["--head", &head]).0, Some(1));
    fs::write(&path, &good).unwrap();
    assert_eq!(verify(&["--head", &head]).0, Some(0));

    // A crash tore the last line: the next daemon truncates it and continues.
    fs::write(&path, &good[..good.len() - 20]).unwrap();
    let (code, said) = verify(&[]);
    assert!(
        code == Some(0) && said.contains("the last line has no end"),
        "{said}"
    );
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    let said = journal(&fleet, "show").unwrap();
    assert!(said.contains("of a torn line were truncated"), "{said}");
    assert!(!journal(&fleet, "verify").unwrap().contains("no end"));
}
