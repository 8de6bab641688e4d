//! Kills and full disks.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use steer_tests::{
    fleet::{Fleet, wait},
    tmpfs::Tmpfs,
};

use super::*;

/// Repeatedly kills the daemon during an apply.
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
    let apply = |text: &str| {
        let path = file(&fleet, "kill", text).display().to_string();
        let begin = Instant::now();
        fleet.cli(&["config", "apply", &path]).unwrap();
        begin.elapsed()
    };
    // The shorter of two: a first one may find cold caches.
    let took = apply(&texts[0]).min(apply(&texts[2]));
    let mut kept = fleet.config();
    let mut taken = 0;
    for kill in 0..KILLS {
        let next = &texts[kill as usize % texts.len()];
        let path = file(&fleet, "kill", next).display().to_string();
        thread::scope(|scope| {
            let site = &fleet;
            let apply = scope.spawn(move || site.cli(&["config", "apply", &path]).is_ok());
            // From before the request is sent to after it is answered.
            thread::sleep(took * kill as u32 * 3 / (KILLS as u32 * 2));
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
            // An acknowledged apply is not lost.
            assert!(!told || now == *next, "kill {kill}: it said yes");
            taken += u64::from(now == *next && now != kept);
            kept = now;
        });
        let said = journal(&fleet, "verify").unwrap();
        assert!(said.contains("are unmodified"), "kill {kill}: {said}");
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
    assert!(error.contains("free some space"), "{error}");
    assert_eq!(generation(&fleet), 2);
    assert_eq!(share(&fleet, "two"), 1.0);
    // The death of a backend is still handled.
    fleet.kill_backend(0);
    fleet.wait_for_health("one", "down").unwrap();
    fleet.start_backend(0).unwrap();
    fleet.wait_for_health("one", "up").unwrap();
    // A rollback must not depend on free space; it reports that a restart would not know it.
    fleet.cli(&["config", "rollback", "1"]).unwrap();
    assert_eq!(generation(&fleet), 1);
    wait(SOON, "one serves", || Ok(share(&fleet, "one") > 0.0)).unwrap();
    disk.free().unwrap();
    // State that could not be written is written once there is space.
    let standing = fleet.state().join("generations/active_generation.json");
    wait(SOON, "the state directory knows", || {
        Ok(fs::read_to_string(&standing)?.contains("\"confirmed\":1,"))
    })
    .unwrap();
    apply(&fleet, &lone, &[]).unwrap();
    assert_eq!(generation(&fleet), 3);
    // The journal retries once a second.
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
