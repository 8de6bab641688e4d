//! Operator commands, and their effect on open requests; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Sample},
    summary::Summary,
    tmpfs::Tmpfs,
};

/// Creates a fleet of two backends with slow answers.
fn fleet(tokens: usize, gap: Duration) -> Fleet {
    let mut plan = Plan {
        tokens,
        thinking: [Duration::from_millis(5), gap],
        ..Plan::new(&["one", "two"], "nat")
    };
    // In the middle of a ring, so that a busy machine does not move them apart.
    for (_, delay) in &mut plan.backends {
        *delay = Some(Duration::from_millis(8));
    }
    let mut fleet = Fleet::new(plan).unwrap();
    fleet.start().unwrap();
    fleet
}

fn load(fleet: &Fleet, duration: Duration) -> Load {
    Load {
        concurrency: 16,
        duration,
        timeout: Duration::from_secs(30),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    }
}

fn failed(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|s| s.error.is_some()).collect()
}

#[test]
fn a_drain_waits_for_open_requests_and_at_its_deadline_no_longer() {
    // Without a deadline every answer completes after three seconds.
    let fleet = fleet(30, Duration::from_millis(100));
    let running = load(&fleet, Duration::from_millis(500))
        .start_in(&fleet.site.client)
        .unwrap();
    wait(Duration::from_secs(5), "flows are open at both", || {
        let status = fleet.status()?;
        let members = status["services"][0]["members"].as_array().unwrap().clone();
        Ok(members.iter().all(|m| m["flows"].as_u64() > Some(0)))
    })
    .unwrap();
    fleet.cli(&["backend", "drain", "one"]).unwrap();
    let samples = running.finish().unwrap();
    assert!(failed(&samples).is_empty(), "{:?}", failed(&samples));
    assert!(Summary::from_samples(&samples).answers.contains_key("one"));
    fleet.cli(&["backend", "undrain", "one"]).unwrap();

    // With a deadline of a second its open flows are reset then, and others are not.
    let flows = |name: &str| {
        let status = fleet.status().unwrap();
        let members = status["services"][0]["members"].as_array().unwrap().clone();
        let member = members
            .iter()
            .find(|m| m["backend"] == name)
            .unwrap()
            .clone();
        member["flows"].as_u64().unwrap()
    };
    let before = flows("one");
    let running = load(&fleet, Duration::from_millis(500))
        .start_in(&fleet.site.client)
        .unwrap();
    wait(Duration::from_secs(5), "flows are open at one", || {
        Ok(flows("one") > before)
    })
    .unwrap();
    let said = fleet
        .cli(&["backend", "drain", "one", "--deadline", "1s", "--wait"])
        .unwrap();
    assert!(said.contains("one has no open flows"), "{said}");
    let samples = running.finish().unwrap();
    let cut = failed(&samples);
    assert!(!cut.is_empty());
    for sample in cut {
        assert_eq!(sample.backend.as_deref(), Some("one"), "{sample:?}");
        // A reset, and not silence until the timeout.
        assert!(sample.total < Duration::from_secs(20), "{sample:?}");
    }
    let said = fleet.cli(&["backend", "show", "one"]).unwrap();
    assert!(said.contains("drained       gone, since "), "{said}");
    let journal = fleet
        .in_node(&[
            "journal",
            "show",
            "--state",
            &fleet.state().display().to_string(),
        ])
        .unwrap();
    assert!(
        journal.contains("backend one: the drain's deadline has passed"),
        "{journal}"
    );
}

#[test]
fn weights_move_new_flows_and_are_shown_and_replayed() {
    let mut fleet = fleet(2, Duration::from_millis(1));
    fleet.cli(&["weight", "two", "9"]).unwrap();
    let shares = |fleet: &Fleet| {
        let text = fleet.cli(&["service", "show", "chat", "--json"]).unwrap();
        let service: Value = serde_json::from_str(&text).unwrap();
        let members = service["members"].as_array().unwrap();
        let share = |m: &Value| m["share"].as_f64().unwrap();
        members.iter().map(share).collect::<Vec<_>>()
    };
    wait(Duration::from_secs(30), "two has nine parts of ten", || {
        Ok((shares(&fleet)[1] - 0.9).abs() < 0.02)
    })
    .unwrap();
    let shown = fleet.cli(&["backend", "show", "two"]).unwrap();
    assert!(
        shown.contains("weight        9, set by the operator"),
        "{shown}"
    );
    let listed = fleet.cli(&["backend", "list"]).unwrap();
    assert!(listed.contains("weight 9 set by the operator"), "{listed}");
    assert!(
        !listed.contains('\u{1b}'),
        "colours where no terminal is: {listed:?}"
    );
    // The drain persists over a restart of the daemon.
    fleet.kill_daemon();
    fleet.start().unwrap();
    wait(Duration::from_secs(30), "two has them again", || {
        Ok((shares(&fleet)[1] - 0.9).abs() < 0.02)
    })
    .unwrap();
    let state = fleet.state().display().to_string();
    let said = fleet
        .in_node(&["journal", "replay", "--state", &state])
        .unwrap();
    assert!(said.contains("0 disagree"), "{said}");
    let shown = fleet
        .in_node(&["journal", "show", "--state", &state])
        .unwrap();
    assert!(shown.contains("backend two has weight 9 (uid 0"), "{shown}");

    for (wrong, says) in [
        (&["weight", "two", "0"][..], "`steer backend drain`"),
        (&["weight", "nobody", "1"], "`steer status` names them"),
        (&["weight", "two", "heavy"], "write a number"),
        (
            &["backend", "show", "nobody"],
            "`steer backend list` lists them",
        ),
        (
            &["service", "show", "nothing"],
            "`steer service list` lists them",
        ),
        (
            &["backend", "drain", "one", "--deadline", "90days"],
            "30days",
        ),
    ] {
        let said = format!("{:#}", fleet.cli(wrong).unwrap_err());
        assert!(said.contains(says), "{wrong:?}: {said}");
    }
    let listed = fleet.cli(&["service", "list"]).unwrap();
    assert!(listed.contains("2 of 2"), "{listed}");
    fleet.cli(&["weight", "two", "capacity"]).unwrap();
    wait(Duration::from_secs(30), "they share evenly", || {
        Ok((shares(&fleet)[1] - 0.5).abs() < 0.02)
    })
    .unwrap();
}

#[test]
fn a_second_daemon_on_the_same_pins_is_refused_and_changes_nothing() {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    fleet.start().unwrap();
    let text = fleet.config();
    let other = text
        .replace("/state\"", "/other-state\"")
        .replace("steer.sock", "other.sock");
    assert_ne!(other, text);
    let path = fleet.path("other.toml");
    std::fs::write(&path, other).unwrap();
    let config = path.display().to_string();
    let said = format!(
        "{:#}",
        fleet.in_node(&["run", "--config", &config]).unwrap_err()
    );
    assert!(said.contains("another daemon uses these pins"), "{said}");
    assert_eq!(fleet.status().unwrap()["backends"][0]["name"], "one");
}

#[test]
fn a_link_in_the_place_of_the_lock_and_too_few_files_are_named_at_the_start() {
    let fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    let config = fleet.config_path().display().to_string();
    let victim = fleet.path("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::fs::create_dir_all(fleet.state()).unwrap();
    let lock = fleet.state().join("lock");
    std::os::unix::fs::symlink(&victim, &lock).unwrap();
    let said = format!(
        "{:#}",
        fleet.in_node(&["run", "--config", &config]).unwrap_err()
    );
    assert!(
        said.contains("lock: is a symbolic link; remove it"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    std::fs::remove_file(&lock).unwrap();

    let steer = fleet.program().display().to_string();
    let script = format!("ulimit -n 40; exec {steer} run --config {config}");
    let said = format!(
        "{:#}",
        fleet.site.node.run(&["sh", "-c", &script]).unwrap_err()
    );
    assert!(
        said.contains("the limit of open files is 40") && said.contains("LimitNOFILE="),
        "{said}"
    );
}

#[test]
fn drain_and_weight_work_without_room_in_the_state_directory() {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
    let disk = Tmpfs::mount(&fleet.state(), 512 << 10).unwrap();
    fleet.start().unwrap();
    disk.fill().unwrap();
    for command in [&["backend", "drain", "one"][..], &["weight", "two", "3"]] {
        let said = fleet.cli(command).unwrap();
        assert!(
            said.contains("warning: ") && said.contains("No space left"),
            "{said}"
        );
    }
    let status = fleet.status().unwrap();
    assert_eq!(status["unsaved"].as_array().unwrap().len(), 2, "{status}");
    assert!(status["backends"][0]["drain"].is_object(), "{status}");
    assert!(
        fleet
            .cli(&["status"])
            .unwrap()
            .contains("end with the daemon")
    );
    disk.free().unwrap();
    wait(Duration::from_secs(20), "both are saved", || {
        Ok(fleet.status()?["unsaved"]
            .as_array()
            .is_some_and(Vec::is_empty))
    })
    .unwrap();
    fleet.kill_daemon();
    fleet.start().unwrap();
    let status = fleet.status().unwrap();
    assert!(status["backends"][0]["drain"].is_object(), "{status}");
    // Read-only: the daemon writes to a file system that refuses it.
    let state = fleet.state().display().to_string();
    let run = |command: &[&str]| {
        let done = std::process::Command::new(command[0])
            .args(&command[1..])
            .status();
        assert!(done.unwrap().success(), "{command:?}");
    };
    run(&["mount", "-t", "tmpfs", "-o", "ro", "none", &state]);
    let said = fleet.cli(&["backend", "undrain", "one"]).unwrap();
    assert!(
        said.contains("warning: ") && said.contains("Read-only"),
        "{said}"
    );
    assert!(fleet.status().unwrap()["backends"][0]["drain"].is_null());
    run(&["umount", "-l", &state]);
    wait(Duration::from_secs(20), "it is saved", || {
        Ok(fleet.status()?["unsaved"]
            .as_array()
            .is_some_and(Vec::is_empty))
    })
    .unwrap();
}
