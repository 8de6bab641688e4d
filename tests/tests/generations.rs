//! Changing the configuration of a site at work: apply, confirm, roll back, crash, full disk; this
//! needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Running, Sample},
    summary::Summary,
    tmpfs::Tmpfs,
};

const SOON: Duration = Duration::from_secs(10);

/// Two backends that are equally near, in the midst of a ring.
fn plan(mode: &'static str) -> Plan {
    let mut plan = Plan::new(&["one", "two"], mode);
    for (_, delay) in &mut plan.backends {
        *delay = Some(Duration::from_millis(8));
    }
    plan
}

fn fleet(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::new(plan(mode)).unwrap();
    fleet.start().unwrap();
    fleet
}

fn load(fleet: &Fleet, duration: Duration) -> Running {
    let load = Load {
        duration,
        timeout: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    load.start_in(&fleet.site.client).unwrap()
}

fn errors(samples: &[Sample]) -> Vec<&str> {
    samples.iter().filter_map(|s| s.error.as_deref()).collect()
}

/// The share of requests that a backend answers now.
fn share(fleet: &Fleet, backend: &str) -> f64 {
    let samples = load(fleet, Duration::from_millis(200)).finish().unwrap();
    assert!(errors(&samples).is_empty(), "{:?}", errors(&samples));
    Summary::of(&samples).share(backend)
}

/// The site's configuration with only these backends in its pool.
fn with_pool(fleet: &Fleet, backends: &[&str]) -> String {
    let pool = "backends = [\"one\", \"two\"]";
    let config = fleet.config();
    assert!(config.contains(pool), "{config}");
    config.replace(pool, &format!("backends = {backends:?}"))
}

/// The site's configuration as if there were only this backend.
fn with_one(fleet: &Fleet, name: &str) -> String {
    let config = with_pool(fleet, &[name]);
    let (head, rest) = config.split_once("\n[[backend]]").unwrap();
    let (backends, tail) = rest.split_once("\n[[pool]]").unwrap();
    let own = backends
        .split("\n[[backend]]")
        .find(|b| b.contains(&format!("{name:?}")));
    format!("{head}\n[[backend]]{}\n[[pool]]{tail}", own.unwrap())
}

/// Writes a configuration beside the daemon's own.
fn file(fleet: &Fleet, name: &str, text: &str) -> PathBuf {
    let folder = fleet.path(name);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("new.toml");
    fs::write(&path, text).unwrap();
    path
}

fn apply(fleet: &Fleet, text: &str, more: &[&str]) -> anyhow::Result<String> {
    let path = file(fleet, "apply", text);
    let path = path.display().to_string();
    fleet.cli(&[&["config", "apply", &path], more].concat())
}

/// The generation in use, by the daemon's word.
fn generation(fleet: &Fleet) -> u64 {
    fleet.status().unwrap()["generation"].as_u64().unwrap()
}

fn journal(fleet: &Fleet, command: &str) -> anyhow::Result<String> {
    let state = fleet.state().display().to_string();
    fleet.in_node(&["journal", command, "--state", &state])
}

fn wait_for_status(fleet: &Fleet) {
    wait(SOON, "the daemon answers", || Ok(fleet.status().is_ok())).unwrap();
}

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
    // One takes over from the other without having been measured before.
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
    // Both serve again, as the last one says.
    wait(SOON, "both serve", || {
        Ok((0.1..0.9).contains(&share(&fleet, "one")))
    })
    .unwrap();
    let said = journal(&fleet, "verify").unwrap();
    assert!(said.contains("are as they were written"), "{said}");
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
    assert_eq!(
        share_line(&said, "two").as_deref(),
        Some("two 49.8 % -> 100.0 %"),
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

    // The window outlives the daemon.
    apply(&fleet, &lone, &["--confirm-within", "4s"]).unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 3);
    assert!(!fleet.status().unwrap()["confirm_by"].is_null());
    wait(SOON, "it is taken back", || Ok(generation(&fleet) == 1)).unwrap();

    // It ends while no daemon is there, too.
    apply(&fleet, &lone, &["--confirm-within", "1s"]).unwrap();
    fleet.kill_daemon();
    // No event tells of a time that passes while nothing runs.
    thread::sleep(Duration::from_millis(1200));
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 1);

    apply(&fleet, &lone, &["--confirm-within", "2s"]).unwrap();
    let said = fleet.cli(&["config", "confirm"]).unwrap();
    assert!(said.contains("generation 5 is confirmed"), "{said}");
    // Nor of what does not happen.
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
        for name in answers {
            assert!((share(&fleet, name) - expected).abs() < 0.3, "{to}: {name}");
        }
    }
    println!("the longest rollback took {longest:?}, with the start of the command");
    fleet.cli(&["config", "rollback"]).unwrap();
    assert_eq!(generation(&fleet), 2);
    for (to, says) in [("2", "is in use"), ("99", "is not kept")] {
        let error = format!("{:#}", fleet.cli(&["config", "rollback", to]).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    // The daemon's own file never changed: a restart does not bring it back.
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 2);
    assert_eq!(share(&fleet, "one"), 1.0);
    // One that did is applied.
    fs::write(fleet.config_path(), with_pool(&fleet, &["two"])).unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 4);
    wait(SOON, "two serves", || Ok(share(&fleet, "two") == 1.0)).unwrap();
    // A broken one keeps no daemon from starting, and `show` prints what is in use.
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

/// Kills the daemon while it applies, again and again.
#[test]
fn a_kill_at_any_instant_leaves_the_old_or_the_new() {
    const KILLS: u64 = 30;
    let mut fleet = fleet("nat");
    let running = load(&fleet, Duration::from_secs(20));
    let texts = [
        with_pool(&fleet, &["one"]),
        with_pool(&fleet, &["two"]),
        fleet.config(),
    ];
    let state = fleet.state().display().to_string();
    let mut kept = fleet.config();
    let mut taken = 0;
    for kill in 0..KILLS {
        let next = &texts[kill as usize % texts.len()];
        let path = file(&fleet, "kill", next).display().to_string();
        thread::scope(|scope| {
            let site = &fleet;
            let apply = scope.spawn(move || site.cli(&["config", "apply", &path]).is_ok());
            // From before the request is there to after it is answered.
            thread::sleep(Duration::from_millis(kill * 2));
            let pid = site.daemon_pid().unwrap();
            // SAFETY: kill touches no memory; the daemon is a child that was not waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            let told = apply.join().unwrap();
            let shown = site
                .in_node(&["config", "show", "--state", &state])
                .unwrap();
            let now = [next, &kept].into_iter().find(|text| shown.contains(*text));
            let now = now
                .unwrap_or_else(|| panic!("neither old nor new: {shown}"))
                .clone();
            // What was answered is not lost.
            assert!(!told || now == *next, "kill {kill}: it said yes");
            taken += u64::from(now == *next && now != kept);
            kept = now;
        });
        let said = journal(&fleet, "verify").unwrap();
        assert!(
            said.contains("are as they were written"),
            "kill {kill}: {said}"
        );
        fleet.kill_daemon();
        fleet.start_daemon().unwrap();
        wait_for_status(&fleet);
        let shown = fleet.cli(&["config", "show"]).unwrap();
        assert!(shown.contains(&kept), "kill {kill}: {shown}");
    }
    println!("{KILLS} kills, after {taken} of which the new configuration was there");
    assert!(taken > 0 && taken < KILLS, "{taken}");
    let samples = running.finish().unwrap();
    assert!(errors(&samples).is_empty(), "{:?}", errors(&samples));
    assert!(samples.len() > 100);
    let said = journal(&fleet, "replay").unwrap();
    assert!(said.contains(" 0 disagree"), "{said}");
}

#[test]
fn a_full_disk_refuses_an_apply_whole_and_not_a_rollback() {
    let mut fleet = Fleet::new(plan("nat")).unwrap();
    let disk = Tmpfs::mount(&fleet.state(), 256 << 10).unwrap();
    fleet.start().unwrap();
    let lone = with_pool(&fleet, &["two"]);
    apply(&fleet, &lone, &[]).unwrap();
    disk.fill().unwrap();
    let error = format!("{:#}", apply(&fleet, &fleet.config(), &[]).unwrap_err());
    assert!(
        error.contains("nothing was changed") && error.contains("No space left"),
        "{error}"
    );
    assert!(error.contains("free some room"), "{error}");
    assert_eq!(generation(&fleet), 2);
    assert_eq!(share(&fleet, "two"), 1.0);
    // The death of a backend is still seen to.
    fleet.kill_backend(0);
    fleet.wait_for_health("one", "down").unwrap();
    fleet.start_backend(0).unwrap();
    fleet.wait_for_health("one", "up").unwrap();
    // Going back must not depend on room; it says so if a restart would not know.
    fleet.cli(&["config", "rollback", "1"]).unwrap();
    assert_eq!(generation(&fleet), 1);
    wait(SOON, "one serves", || Ok(share(&fleet, "one") > 0.0)).unwrap();
    disk.free().unwrap();
    // What could not be written is written once there is room.
    let standing = fleet.state().join("generations/standing.json");
    wait(SOON, "the state directory knows", || {
        Ok(fs::read_to_string(&standing)?.contains("\"confirmed\":1,"))
    })
    .unwrap();
    apply(&fleet, &lone, &[]).unwrap();
    assert_eq!(generation(&fleet), 3);
    // The journal tries again once a second.
    wait(SOON, "the journal goes on", || {
        Ok(journal(&fleet, "verify").is_ok() && {
            fleet.cli(&["backend", "drain", "one"])?;
            fleet.cli(&["backend", "undrain", "one"])?;
            journal(&fleet, "show")?
                .lines()
                .last()
                .is_some_and(|l| l.contains("uid 0"))
        })
    })
    .unwrap();
    // A daemon starts on a full disk, too.
    disk.fill().unwrap();
    fleet.kill_daemon();
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    assert_eq!(generation(&fleet), 3);
    fleet.kill_daemon();
    drop(disk);
}

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
        let output = Command::new(steer_tests::fleet::binary("steer").unwrap())
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
    let start = format!("{}:{line}: this line was changed", path.display());
    assert!(said.starts_with(&start), "{said}");
    // Somebody takes the end away: only a head that was noted tells.
    let shorter: Vec<&str> = good.lines().collect();
    fs::write(&path, shorter[..shorter.len() - 1].join("\n") + "\n").unwrap();
    assert_eq!(verify(&[]).0, Some(0));
    assert_eq!(verify(&["--head", &head]).0, Some(1));
    fs::write(&path, &good).unwrap();
    assert_eq!(verify(&["--head", &head]).0, Some(0));

    // A crash tore the last line: the next daemon cuts it off and goes on.
    fs::write(&path, &good[..good.len() - 20]).unwrap();
    let (code, said) = verify(&[]);
    assert!(
        code == Some(0) && said.contains("the last line has no end"),
        "{said}"
    );
    fleet.start_daemon().unwrap();
    wait_for_status(&fleet);
    let said = journal(&fleet, "show").unwrap();
    assert!(said.contains("of a torn line were cut off"), "{said}");
    assert!(!journal(&fleet, "verify").unwrap().contains("no end"));
}
