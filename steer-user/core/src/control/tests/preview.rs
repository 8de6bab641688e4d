use super::*;
use crate::control::{Fate, Shares};

fn shares(now: Option<f64>, then: Option<f64>) -> Shares {
    Shares { now, then }
}

/// Preview and effect of a configuration agree.
#[test]
fn a_preview_says_what_reconfiguring_does_and_does_nothing() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b", "c"], Fake::new());
    for name in ["a", "b", "c"] {
        bench.up(&mut controller, name, 1);
    }
    let before = controller.dataplane.clone();
    let more = config(bench.folder.path(), &["a", "b", "c", "d"]);
    let preview = DryRun::from_controller(&controller, bench.now)
        .preview(&more)
        .unwrap();
    assert_eq!(controller.dataplane.choices(), before.choices());
    assert_eq!(controller.dataplane.states(), before.states());

    assert_eq!(preview.assumed, ["d"]);
    let service = &preview.services[0];
    assert_eq!(
        (service.fate, service.vip.as_str()),
        (Fate::Stays, "tcp 10.99.0.1:80")
    );
    let near = |a: f64, b: f64| (a - b).abs() < 0.01;
    for (name, now) in [("a", Some(1.0 / 3.0)), ("c", Some(1.0 / 3.0)), ("d", None)] {
        let shares = service.shares[name];
        assert_eq!(shares.now.is_some(), now.is_some(), "{name}");
        assert!(
            near(shares.now.unwrap_or(0.0), now.unwrap_or(0.0)),
            "{shares:?}"
        );
        assert!(near(shares.then.unwrap(), 0.25), "{shares:?}");
    }
    // A quarter must move; consistent hashing moves little more.
    assert!((0.25..0.35).contains(&service.moved), "{}", service.moved);

    controller.reconfigure(more.clone(), bench.now).unwrap();
    bench.up(&mut controller, "d", 1);
    let again = DryRun::from_controller(&controller, bench.now)
        .preview(&more)
        .unwrap();
    assert!(again.assumed.is_empty());
    assert_eq!(again.services[0].moved, 0.0);
    for (name, shares) in &again.services[0].shares {
        assert_eq!(shares.now, shares.then, "{name}");
        assert_eq!(shares.now, service.shares[name].then, "{name}");
    }
}

#[test]
fn services_that_come_and_go_are_told() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    bench.up(&mut controller, "a", 1);
    let other = text(bench.folder.path(), &["a"]).replace("port = 80", "port = 81");
    let other = Config::parse(&other, Path::new("test.toml")).unwrap();
    let preview = DryRun::from_controller(&controller, bench.now)
        .preview(&other)
        .unwrap();
    let fates: Vec<_> = preview
        .services
        .iter()
        .map(|s| (s.vip.as_str(), s.fate))
        .collect();
    assert_eq!(
        fates,
        [
            ("tcp 10.99.0.1:81", Fate::New),
            ("tcp 10.99.0.1:80", Fate::Goes)
        ]
    );
    assert_eq!(preview.services[0].shares["a"], shares(None, Some(1.0)));
    assert_eq!(preview.services[1].shares["a"], shares(Some(1.0), None));
}

#[test]
fn a_backend_that_is_down_stays_down_in_a_preview() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.down(&mut controller, "b");
    let same = config(bench.folder.path(), &["a", "b"]);
    let preview = DryRun::from_controller(&controller, bench.now)
        .preview(&same)
        .unwrap();
    assert!(preview.assumed.is_empty());
    let service = &preview.services[0];
    assert_eq!(service.shares["a"], shares(Some(1.0), Some(1.0)));
    assert_eq!(service.shares["b"], shares(Some(0.0), Some(0.0)));
    assert_eq!(service.moved, 0.0);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_happens() {
    let bench = Bench::new();
    let controller = bench.start(&["a"], Fake::new());
    // More members than the data path holds: each of them is drained, and keeps its number.
    let mut full = controller.dataplane.clone();
    for id in 1..steer_common::abi::MAX_MEMBERS as u16 {
        full.set_member_state(id, Draining);
    }
    let controller = bench.start(&["a"], Fake::new());
    let full = Controller {
        dataplane: full,
        ..controller
    };
    let error = DryRun::from_controller(&full, bench.now)
        .preview(&config(bench.folder.path(), &["b", "c"]))
        .unwrap_err();
    assert!(format!("{error:#}").contains("more members"), "{error:#}");
}
