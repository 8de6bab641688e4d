//! Shedding by priority, and limits for sources.

use std::{path::Path, time::Duration};

use steer_common::abi::{member_flags, service_flags};

use super::{Bench, fake::Fake, text};
use crate::{config::Config, control::Controller, dataplane::SteeringTables as _};

fn with_class(bench: &Bench, class: &str) -> Config {
    let text = text(bench.folder.path(), &["a", "b"])
        + "[[class]]\nname = \"bulk\"\nservice = \"chat\"\nsources = [\"10.0.0.0/8\"]\npools = [\"all\"]\n"
        + class;
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

fn set_hot(controller: &mut Controller<Fake>, hot: &[u16]) {
    for id in 1..=2 {
        let mut member = controller.dataplane.member(id);
        member.flags &= !member_flags::HOT;
        if hot.contains(&id) {
            member.flags |= member_flags::HOT;
        }
        controller.dataplane.set_member(id, &member);
    }
}

/// Priorities below which new flows of service and class are shed.
fn pressures(controller: &Controller<Fake>) -> [u32; 2] {
    let numbers = [
        controller.dataplane.services()[0].id,
        controller.dataplane.policies()[0].id,
    ];
    let all = &controller.dataplane.pressures;
    numbers.map(|id| all.get(&id).copied().unwrap_or(0))
}

#[test]
fn a_hot_pool_sheds_the_less_important_class_and_takes_it_back() {
    let mut bench = Bench::new();
    let config = with_class(&bench, "priority = 10\n");
    let mut controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let flags = |policy: &steer_common::abi::Service| policy.flags & service_flags::SHEDS != 0;
    assert!(!flags(&controller.dataplane.services()[0]));
    assert!(flags(&controller.dataplane.policies()[0]));
    let mut seconds = |controller: &mut Controller<Fake>, count: u32| {
        for _ in 0..count {
            bench.now += Duration::from_secs(1);
            controller.tick(bench.now).unwrap();
        }
        bench.now
    };
    // One with room is enough.
    set_hot(&mut controller, &[1]);
    seconds(&mut controller, 5);
    assert_eq!(pressures(&controller), [0, 0]);
    set_hot(&mut controller, &[1, 2]);
    let now = seconds(&mut controller, 3);
    // All below the next priority, which is the service's; that one never goes.
    assert_eq!(pressures(&controller), [100, 100]);
    let status = controller.view().status(now).unwrap();
    let service = &status.services[0];
    assert_eq!((service.shed, service.classes[0].shed), (false, true));
    // It is not taken back at once.
    set_hot(&mut controller, &[1]);
    seconds(&mut controller, 2);
    assert_eq!(pressures(&controller), [100, 100]);
    seconds(&mut controller, 5);
    assert_eq!(pressures(&controller), [0, 0]);
}

#[test]
fn nothing_is_shed_where_all_are_alike() {
    let mut bench = Bench::new();
    let config = with_class(&bench, "");
    let mut controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    set_hot(&mut controller, &[1, 2]);
    for _ in 0..5 {
        bench.now += Duration::from_secs(1);
        controller.tick(bench.now).unwrap();
    }
    assert_eq!(pressures(&controller), [0, 0]);
    assert_eq!(
        controller.dataplane.policies()[0].flags & service_flags::SHEDS,
        0
    );
}

#[test]
fn limits_for_sources_that_are_alike_are_one() {
    let bench = Bench::new();
    let limited = "source_flows_per_second = 10\n";
    let config = with_class(&bench, limited);
    let text = text(bench.folder.path(), &["a"]);
    let controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    assert_eq!(controller.dataplane.services()[0].limit, 0);
    assert_eq!(controller.dataplane.policies()[0].limit, 1);
    let both = format!(
        "{text}{limited}[[class]]\nname = \"c\"\nservice = \"chat\"\ndscp = [1]\npools = [\"all\"]\n"
    );
    let config = Config::parse(&both, Path::new("test.toml")).unwrap();
    let controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    let limits = [
        controller.dataplane.services()[0].limit,
        controller.dataplane.policies()[0].limit,
    ];
    assert_eq!(limits, [1, 1]);
}
