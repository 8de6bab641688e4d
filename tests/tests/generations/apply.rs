//! Apply, confirm, and roll back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use steer_tests::fleet::wait;

use super::*;

fn applies_under_load(mode: &'static str) {
    let fleet = fleet(mode);
    let running = load(&fleet, Duration::from_secs(5));
    let plain = fleet.config();
    let heavy = plain.replacen("mode = ", "capacity = 9\nmode = ", 1);
    let another = format!(
        "{plain}\n[[service]]\nname = \"other\"\naddress = \"{}\"\nport = 9999\npools = [\"all\"]\n",
        fleet.vip()
    );
    let lone = with_pool(&fleet, &["two"]);
    // One takes over from the other without earlier measurements.
    let [first, second] = ["one", "two"].map(|name| with_one(&fleet, name));
    for (number, text) in (2..).zip([
        &heavy, &another, &lone, &plain, &first, &second, &first, &plain,
    ]) {
        let said = apply(&fleet, text, &[]).unwrap();
        assert!(
            said.contains(&format!("generation {number} is in use")),
            "{said}"
        );
    }
    let samples = running.finish().unwrap();
    assert!(
        errors(&samples).is_empty(),
        "{mode}: {:?}",
        errors(&samples)
    );
    assert!(samples.len() > 50, "{mode}: {} requests", samples.len());
    let status = fleet.status().unwrap();
    let drops = status["drops"].as_object().unwrap();
    assert!(drops.is_empty(), "{mode}: {drops:?}");
    // Both serve again, as in the last generation.
    wait_for_both(&fleet);
    assert!((0.1..0.9).contains(&share(&fleet, "one")));
    let said = journal(&fleet, "verify").unwrap();
    assert!(said.contains("are unmodified"), "{said}");
    let said = journal(&fleet, "replay").unwrap();
    assert!(
        said.contains(" 0 disagree") && !said.contains(" 0 tables;"),
        "{said}"
    );
}

#[test]
fn applying_under_load_loses_no_request_over_nat() {
    applies_under_load("nat");
}

#[test]
fn applying_under_load_loses_no_request_over_ipip() {
    applies_under_load("ipip");
}

#[test]
fn a_diff_says_what_apply_then_does() {
    let fleet = fleet("nat");
    let lone = with_pool(&fleet, &["two"]);
    let path = file(&fleet, "diff", &lone).display().to_string();
    let said = fleet.cli(&["config", "diff", &path]).unwrap();
    assert!(
        said.contains("pool \"all\": backends [\"one\", \"two\"] -> [\"two\"]"),
        "{said}"
    );
    let share_line = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.trim_start().starts_with(name));
        line.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let line = share_line(&said, "two").unwrap();
    assert!(
        ["two 49.8 % -> 100.0 %", "two 50.2 % -> 100.0 %"].contains(&line.as_str()),
        "{said}"
    );
    assert_eq!(generation(&fleet), 1);
    assert!(share(&fleet, "one") > 0.0);
    apply(&fleet, &lone, &[]).unwrap();
    let status = fleet.status().unwrap();
    let members = status["services"][0]["members"].as_array().unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0]["share"].as_f64(), Some(1.0));
    assert_eq!(share(&fleet, "two"), 1.0);
}

#[test]
fn a_window_that_runs_out_reverts_and_a_confirmation_keeps() {
    let mut fleet = fleet("nat");
    let lone = with_pool(&fleet, &["two"]);
    let said = apply(&fleet, &lone, &["--confirm-within", "2s"]).unwrap();
    assert!(said.contains("unless `steer config confirm`"), "{said}");
    assert_eq!(generation(&fleet), 2);
    assert_eq!(share(&fleet, "two"), 1.0);
    let error = apply(&fleet, &fleet.config(), &[]).unwrap_err();
    assert!(
        format!("{error:#}").contains("generation 2 is on trial"),
        "{error:#}"
    );
    wait(SOON, "it is taken back", || Ok(generation(&fleet) == 1)).unwrap();
    wait(SOON, "one serves", || Ok(share(&fleet, "one") > 0.0)).unwrap();
    let error = fleet.cli(&["config", "confirm"]).unwrap_err();
    assert!(
        format!("{error:#}").contains("no generation is on trial"),
        "{error:#}"
    );

    // The window continues over a restart, and is longer than a start takes.
    apply(&fleet, &lone, &["--confirm-within", "15s"]).unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 3);
    assert!(!fleet.status().unwrap()["confirm_by"].is_null());
    wait(3 * SOON, "it is taken back", || Ok(generation(&fleet) == 1)).unwrap();

    // The window also ends while no daemon runs.
    apply(&fleet, &lone, &["--confirm-within", "1s"]).unwrap();
    fleet.kill_daemon();
    // No event marks the passage of time while nothing runs.
    thread::sleep(Duration::from_millis(1200));
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 1);

    apply(&fleet, &lone, &["--confirm-within", "2s"]).unwrap();
    let said = fleet.cli(&["config", "confirm"]).unwrap();
    assert!(said.contains("generation 5 is confirmed"), "{said}");
    // There is no event for something that does not happen.
    thread::sleep(Duration::from_millis(3300));
    assert_eq!(generation(&fleet), 5);
    assert_eq!(share(&fleet, "two"), 1.0);
}

#[test]
fn every_kept_generation_can_be_gone_back_to_and_a_restart_leaves_it() {
    let mut fleet = fleet("nat");
    let all = ["one", "two"];
    for names in [&all[..1], &all[1..]] {
        apply(&fleet, &with_pool(&fleet, names), &[]).unwrap();
    }
    let mut longest = Duration::ZERO;
    for (to, answers) in [
        ("1", &all[..]),
        ("3", &all[1..]),
        ("2", &all[..1]),
        ("3", &all[1..]),
    ] {
        let begin = Instant::now();
        fleet.cli(&["config", "rollback", to]).unwrap();
        longest = longest.max(begin.elapsed());
        assert_eq!(generation(&fleet).to_string(), to);
        let expected = 1.0 / answers.len() as f64;
        wait(SOON, "those of the generation answer", || {
            Ok(answers
                .iter()
                .all(|name| (share(&fleet, name) - expected).abs() < 0.3))
        })
        .unwrap();
    }
    println!("the longest rollback took {longest:?}, with the start of the command");
    fleet.cli(&["config", "rollback"]).unwrap();
    assert_eq!(generation(&fleet), 2);
    for (to, says) in [("2", "is in use"), ("99", "is not stored")] {
        let error = format!("{:#}", fleet.cli(&["config", "rollback", to]).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    // The daemon's own file never changed: a restart does not bring it back.
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 2);
    assert_eq!(share(&fleet, "one"), 1.0);
    // A changed file is applied.
    fs::write(fleet.config_path(), with_pool(&fleet, &["two"])).unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 4);
    wait(SOON, "two serves", || Ok(share(&fleet, "two") == 1.0)).unwrap();
    // An invalid file does not prevent a start, and `show` prints what is in use.
    let good = fs::read_to_string(fleet.config_path()).unwrap();
    fs::write(fleet.config_path(), good.replacen("[node]", "[node", 1)).unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait(SOON, "the daemon answers", || Ok(fleet.status().is_ok())).unwrap();
    assert_eq!(generation(&fleet), 4);
    assert!(fleet.cli(&["config", "show"]).unwrap().contains(&good));
    let history = fleet.cli(&["config", "history"]).unwrap();
    assert!(
        history
            .lines()
            .any(|l| l.trim_start().starts_with("*       4")),
        "{history}"
    );
}
