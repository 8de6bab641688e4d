//! A complete site: client, node with its daemon, backends with their beacons; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use steer_tests::{
    fleet::{Fleet, HTTP, HTTPS, Plan, wait},
    load::{Load, Sample},
    pass::Pass,
    summary::Summary,
    topology::PORT,
};

fn fleet(mode: &'static str, v6: bool) -> Fleet {
    let mut plan = Plan {
        v6,
        ..Plan::new(&["near", "far"], mode)
    };
    // Far enough to be in another ring.
    plan.backends[1].1 = Some(Duration::from_millis(8));
    let mut fleet = Fleet::new(plan).unwrap();
    fleet.start().unwrap();
    fleet
}

fn load(fleet: &Fleet, port: u16, duration: Duration) -> Load {
    Load {
        tls: port == HTTPS,
        duration,
        timeout: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), port))
    }
}

fn ask(fleet: &Fleet, port: u16) -> Summary {
    let load = load(fleet, port, Duration::from_millis(300));
    let samples = load.run_in(&fleet.site.client).unwrap();
    let errors: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!samples.is_empty());
    Summary::from_samples(&samples)
}

/// Checks steering by nearness, over one mode and family; the death of a backend and its recovery.
fn steers(mode: &'static str, v6: bool) {
    let mut fleet = fleet(mode, v6);
    for port in [HTTP, HTTPS] {
        let summary = ask(&fleet, port);
        assert_eq!(summary.share("near"), 1.0, "{:?}", summary.answers);
    }
    fleet.kill_backend(0);
    fleet.wait_for_health("near", "down").unwrap();
    for port in [HTTP, HTTPS] {
        let summary = ask(&fleet, port);
        assert_eq!(summary.share("far"), 1.0, "{:?}", summary.answers);
    }
    fleet.start_backend(0).unwrap();
    fleet.wait_for_health("near", "up").unwrap();
    wait(Duration::from_secs(5), "near serves again", || {
        Ok(ask(&fleet, HTTP).share("near") == 1.0)
    })
    .unwrap();
}

#[test]
fn nat_over_ipv4_steers_to_the_nearest() {
    steers("nat", false);
}

#[test]
fn nat_over_ipv6_steers_to_the_nearest() {
    steers("nat", true);
}

#[test]
fn ipip_over_ipv4_steers_to_the_nearest() {
    steers("ipip", false);
}

#[test]
fn ipip_over_ipv6_steers_to_the_nearest() {
    steers("ipip", true);
}

/// A backend's death fails no new request for long, and none at another backend.
fn fails_over(mode: &'static str, v6: bool) {
    let mut fleet = fleet(mode, v6);
    let running = load(&fleet, HTTP, Duration::from_secs(4))
        .start_in(&fleet.site.client)
        .unwrap();
    wait(Duration::from_secs(5), "requests flow", || {
        let status = fleet.status()?;
        Ok(status.to_string().contains("\"packets\""))
    })
    .unwrap();
    let killed = Instant::now();
    fleet.kill_backend(0);
    let samples = running.finish().unwrap();
    let summary = Summary::from_samples(&samples);
    let last = summary
        .last_failure
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(killed));
    assert!(last < Duration::from_secs(1), "{last:?}");
    let failed_elsewhere: Vec<&Sample> = samples
        .iter()
        .filter(|s| s.error.is_some() && s.backend.as_deref() == Some("far"))
        .collect();
    assert!(failed_elsewhere.is_empty(), "{failed_elsewhere:?}");
    assert!(summary.answers.contains_key("far"), "{summary:?}");
}

#[test]
fn a_backends_death_fails_no_new_request_for_long_and_none_elsewhere() {
    fails_over("nat", false);
}

#[test]
fn a_backends_death_over_ipv6_fails_no_new_request_for_long_and_none_elsewhere() {
    for mode in ["nat", "ipip"] {
        fails_over(mode, true);
    }
}

/// Checks that flows to a vanished host are reset: the host sends nothing and a client would wait
/// for minutes, so the node answers in its place.
fn open_connections_to_what_is_gone_are_reset(mode: &'static str, v6: bool) {
    const LIMIT: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: chat\r\n\r\n";
    let mut fleet = fleet(mode, v6);
    let _pass = Pass::attach(&fleet.site.client, PORT).unwrap();
    let chat = SocketAddr::new(fleet.vip(), HTTP);
    let client = &fleet.site.client;
    let connected = client.enter(|| TcpStream::connect_timeout(&chat, LIMIT));
    let mut connection = connected.unwrap().unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.write_all(REQUEST).unwrap();
    let mut answer = [0; 4096];
    let length = connection.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.contains("x-backend: near"), "{answer}");

    let gone = &fleet.site.backends[0].namespace;
    gone.run(&["ip", "link", "set", PORT, "down"]).unwrap();
    fleet.wait_for_health("near", "down").unwrap();
    connection.write_all(REQUEST).unwrap();
    // A signal to this process, whoever sends it, interrupts a read that has a timeout.
    let failure = loop {
        let failure = connection.read(&mut [0; 64]).unwrap_err();
        if failure.kind() != ErrorKind::Interrupted {
            break failure;
        }
    };
    assert_eq!(failure.kind(), ErrorKind::ConnectionReset, "{failure}");
    assert_eq!(ask(&fleet, HTTP).share("far"), 1.0);
}

#[test]
fn open_connections_through_nat_to_a_host_that_is_gone_are_reset() {
    open_connections_to_what_is_gone_are_reset("nat", false);
}

#[test]
fn open_connections_through_a_tunnel_to_a_host_that_is_gone_are_reset() {
    open_connections_to_what_is_gone_are_reset("ipip", true);
}

#[test]
fn the_daemons_death_and_return_fail_no_request() {
    for mode in ["nat", "ipip"] {
        let mut fleet = fleet(mode, false);
        let running = load(&fleet, HTTP, Duration::from_secs(4))
            .start_in(&fleet.site.client)
            .unwrap();
        fleet.kill_daemon();
        assert!(fleet.status().is_err());
        // Time in which only the program in the kernel runs; no event marks it.
        thread::sleep(Duration::from_secs(1));
        fleet.start().unwrap();
        let samples = running.finish().unwrap();
        let errors: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
        assert!(errors.is_empty(), "{mode}: {errors:?}");
        assert!(samples.len() > 20, "{mode}: {} requests", samples.len());
        assert_eq!(ask(&fleet, HTTP).share("near"), 1.0);
    }
}

#[test]
fn a_graceful_stop_leaves_the_program_and_detach_takes_it() {
    let mut fleet = fleet("nat", false);
    fleet.daemon().unwrap().signal(libc::SIGTERM);
    wait(Duration::from_secs(5), "the daemon has ended", || {
        Ok(!fleet.daemon()?.is_running())
    })
    .unwrap();
    ask(&fleet, HTTP);
    let config = fleet.config_path();
    fleet
        .in_node(&["detach", "--config", &config.display().to_string()])
        .unwrap();
    let links = fleet.site.node.run(&["ip", "-d", "link"]).unwrap();
    assert!(!links.contains("prog/xdp"), "{links}");
    assert!(!fleet.bpffs().join("steer").exists());
}

#[test]
fn a_bad_configuration_leaves_the_running_one() {
    let mut fleet = fleet("nat", false);
    let good = fs::read_to_string(fleet.config_path()).unwrap();
    for (bad, hint) in [
        ("[node", "steer.toml:1"),
        ("[nodes]\nname = \"x\"\n", "nodes"),
        (
            &good.replace("pools = [\"all\"]", "pools = [\"none\"]"),
            "none",
        ),
        (&good.replace("mode = \"nat\"", "mode = \"magic\""), "magic"),
    ] {
        fs::write(fleet.config_path(), bad).unwrap();
        let config = fleet.config_path();
        let checked = fleet.in_node(&["config", "check", &config.display().to_string()]);
        let said = format!("{:#}", checked.unwrap_err());
        assert!(said.contains(hint), "{said}");
        fleet.daemon().unwrap().signal(libc::SIGHUP);
        let summary = ask(&fleet, HTTP);
        assert_eq!(summary.share("near"), 1.0, "{:?}", summary.answers);
        assert!(fleet.daemon().unwrap().is_running());
    }
    // The daemon still accepts a valid one.
    let renamed = good.replace("\"chat\"", "\"talk\"");
    fs::write(fleet.config_path(), renamed).unwrap();
    fleet.daemon().unwrap().signal(libc::SIGHUP);
    wait(
        Duration::from_secs(5),
        "the service has its new name",
        || Ok(fleet.status()?.to_string().contains("\"talk\"")),
    )
    .unwrap();
    ask(&fleet, HTTP);
}

#[test]
fn drained_backends_get_nothing_new_until_they_are_undrained() {
    let fleet = fleet("nat", false);
    fleet.cli(&["backend", "drain", "near"]).unwrap();
    assert_eq!(ask(&fleet, HTTP).share("far"), 1.0);
    let error = fleet.cli(&["backend", "drain", "nobody"]).unwrap_err();
    assert!(format!("{error:#}").contains("nobody"), "{error:#}");
    fleet.cli(&["backend", "undrain", "near"]).unwrap();
    wait(Duration::from_secs(5), "near serves again", || {
        Ok(ask(&fleet, HTTP).share("near") == 1.0)
    })
    .unwrap();
}

#[test]
fn explain_says_what_the_kernel_does() {
    let fleet = fleet("nat", false);
    let client = fleet.site.client_v4();
    let source = format!("{client}:50000");
    let target = format!("{}:{HTTP}", fleet.vip());
    let said = fleet.cli(&["explain", "tcp", &source, &target]).unwrap();
    assert!(said.contains("near"), "{said}");
    let other = format!("{}:{}", fleet.vip(), HTTP + 1);
    let said = fleet.cli(&["explain", "tcp", &source, &other]).unwrap();
    assert!(said.contains("unchanged"), "{said}");
}
