//! Namespaces, links and delay lines; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use steer_tests::netns::Namespace;
use steer_tests::ping::ping;
use steer_tests::topology::{Site, VIP_V4};

const TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn a_namespace_goes_with_what_runs_in_it_when_its_test_panics() {
    let mut left = None;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let namespace = Namespace::create("panic").unwrap();
        assert!(fs::exists(namespace.path()).unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut process = namespace.spawn(command).unwrap();
        let grandchild: u32 = process.read_line().unwrap().unwrap().parse().unwrap();
        assert!(process.is_running());
        let inside = namespace
            .run(&["ip", "netns", "pids", namespace.name()])
            .unwrap();
        assert!(
            inside.lines().any(|pid| pid == grandchild.to_string()),
            "{inside}"
        );
        left = Some((namespace.path(), process.pid(), grandchild));
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    let (path, child, grandchild) = left.unwrap();
    assert!(!fs::exists(path).unwrap());
    for pid in [child, grandchild] {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z ") || state.contains(") X "),
            "{state}"
        );
    }
}

#[test]
fn a_command_fails_with_what_it_said() {
    let namespace = Namespace::create("fail").unwrap();
    let error = namespace
        .run(&["ip", "link", "show", "absent"])
        .unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn the_client_reaches_every_backend_over_both_protocols() {
    let site = Site::new(&[None, None]).unwrap();
    for backend in &site.backends {
        ping(&site.client, backend.v4.into(), TIMEOUT).unwrap();
        ping(&site.client, backend.v6.into(), TIMEOUT).unwrap();
        ping(&backend.namespace, site.client_v4().into(), TIMEOUT).unwrap();
        ping(&backend.namespace, site.client_v6().into(), TIMEOUT).unwrap();
    }
    let route = site
        .client
        .run(&["ip", "route", "get", &VIP_V4.to_string()])
        .unwrap();
    assert!(route.contains("via 10.77.0.1"), "{route}");
}

#[test]
fn a_delay_line_holds_frames_both_ways() {
    let delay = Duration::from_millis(10);
    let site = Site::new(&[Some(delay), None]).unwrap();
    for address in [site.backends[0].v4.into(), site.backends[0].v6.into()] {
        let best = (0..5)
            .map(|_| ping(&site.client, address, TIMEOUT).unwrap())
            .min()
            .unwrap();
        assert!(best >= 2 * delay && best < 4 * delay, "{best:?}");
    }
    let direct = ping(&site.client, site.backends[1].v4.into(), TIMEOUT).unwrap();
    assert!(direct < delay, "{direct:?}");
    assert_eq!(site.backends[0].line_drops(), 0);
}
