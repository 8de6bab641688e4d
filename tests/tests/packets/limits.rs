//! Limits of new flows by source, and shedding by priority.

use std::net::IpAddr;

use steer_common::{
    Action,
    abi::{Address, SourceLimit, service_flags},
    verdict::DropReason,
};
use steer_core::dataplane::{SteeringTables as _, TrafficCounters as _};
use steer_dataplane::now_coarse_ns;
use steer_tests::packet::{ACK, SYN, TestPacket};

use crate::{
    classes::class,
    fixture::{Fixture, PORT, v4, v6, vip},
    nat::udp,
};

const SENT: Action = Action::Transmit(1);
const LIMITED: Action = Action::Drop(DropReason::RateLimited);
const SOURCE: Action = Action::Drop(DropReason::SourceLimited);
const SHED: Action = Action::Drop(DropReason::Shed);
const TCP: u8 = 6;
/// Interval between flows: longer than a test takes.
const INTERVAL: u32 = 4_000_000_000;

/// Returns a limit with a burst of this many flows.
fn limit(flows: u64, mask: &str) -> SourceLimit {
    let mask: IpAddr = mask.parse().unwrap();
    SourceLimit {
        burst: (flows - 1) * u64::from(INTERVAL),
        mask: Address::from(mask),
        interval: INTERVAL,
        ..SourceLimit::default()
    }
}

fn act(fixture: &mut Fixture, source: &str, port: u16, vip: IpAddr, flags: u8) -> Action {
    let packet = TestPacket::tcp((source.parse().unwrap(), port), (vip, PORT), flags);
    fixture.run(&packet.bytes()).action
}

#[test]
fn each_source_has_a_limit_of_its_own() {
    for (vip, other, mask, near, far) in [
        (
            v4(vip::EXACT),
            v4(vip::CROSS),
            // IPv4 addresses are mapped: the last eight bits do not count.
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00",
            ["192.0.2.7", "192.0.2.8"],
            "192.0.3.7",
        ),
        (
            v6(vip::EXACT),
            v6(vip::CROSS),
            "ffff:ffff:ffff:ffff::",
            ["2001:db8::7", "2001:db8::8:0:1"],
            "2001:db8:0:1::7",
        ),
    ] {
        let mut fixture = Fixture::new();
        fixture.limits = vec![limit(1, "ffff::"), limit(3, mask)];
        fixture.change_service(vip, |service| service.limit = 2);
        let [one, two] = near;
        for port in 1..=2 {
            assert_eq!(act(&mut fixture, one, port, vip, SYN), SENT);
        }
        assert_eq!(act(&mut fixture, two, 3, vip, SYN), SENT);
        for port in 4..=6 {
            assert_eq!(act(&mut fixture, one, port, vip, SYN), SOURCE);
            assert_eq!(act(&mut fixture, two, port, vip, SYN), SOURCE);
        }
        // Open flows, other sources and other services are not affected.
        assert_eq!(act(&mut fixture, one, 1, vip, ACK), SENT);
        assert_eq!(act(&mut fixture, far, 1, vip, SYN), SENT);
        assert_eq!(act(&mut fixture, one, 7, other, SYN), SENT);
        let id = fixture.service(vip, TCP).id;
        assert_eq!(fixture.refused(id, DropReason::SourceLimited), 6);
        assert_eq!(fixture.refused(id, DropReason::RateLimited), 0);
        fixture.check_counters();
    }
}

#[test]
fn what_a_source_has_too_much_of_takes_no_place_from_others() {
    let mut fixture = Fixture::new();
    let vip = v4(vip::EXACT);
    fixture.limits = vec![limit(2, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")];
    fixture.change_service(vip, |service| {
        service.limit = 1;
        service.flow_interval = INTERVAL;
        service.flow_burst = 2 * u64::from(INTERVAL);
    });
    let greedy = (1..=5).map(|port| act(&mut fixture, "192.0.2.7", port, vip, SYN));
    assert_eq!(
        greedy.collect::<Vec<_>>(),
        [SENT, SENT, SOURCE, SOURCE, SOURCE]
    );
    assert_eq!(act(&mut fixture, "192.0.2.8", 1, vip, SYN), SENT);
    assert_eq!(act(&mut fixture, "192.0.2.8", 2, vip, SYN), LIMITED);
}

#[test]
fn a_bucket_goes_on_where_the_clock_wraps() {
    let mut fixture = Fixture::new();
    let vip = v4(vip::EXACT);
    fixture.change_service(vip, |service| {
        service.flow_interval = INTERVAL;
        service.flow_burst = 0;
    });
    let id = fixture.service(vip, TCP).id;
    let hour = 3_600_000_000_000;
    for (due, expected) in [
        // A time just before the clock restarted is in the past.
        (u64::MAX, SENT),
        (u64::MAX - hour, SENT),
        (now_coarse_ns().wrapping_sub(hour), SENT),
        // A future time is not due.
        (now_coarse_ns() + hour, LIMITED),
    ] {
        fixture.xdp.maps().set_due(id, due);
        let mut admission = fixture.host.admission.borrow_mut();
        admission.entry(id).or_default().due = due;
        drop(admission);
        assert_eq!(
            act(&mut fixture, "192.0.2.7", 1, vip, SYN),
            expected,
            "{due}"
        );
    }
}

#[test]
fn the_lowest_priority_is_shed_first() {
    let mut fixture = Fixture::new();
    let vip = v4(vip::EXACT);
    for address in [vip, v4(vip::NAT)] {
        fixture.change_service(address, |service| {
            service.priority = 100;
            service.flags |= service_flags::SHEDS;
        });
    }
    let class_of = |fixture: &mut Fixture, number, source, priority| {
        let mut own = class(fixture, (vip, TCP), number, 2, &[source], &[]);
        own.policy.priority = priority;
        own
    };
    let low = class_of(&mut fixture, 0, "10.1.0.0/16", 50);
    let high = class_of(&mut fixture, 1, "10.2.0.0/16", 200);
    let numbers = [low.policy.id, fixture.service(vip, TCP).id, high.policy.id];
    fixture.set_classes(vec![low, high]);
    let sources = ["10.1.0.1", "192.0.2.7", "10.2.0.1"];
    let mut shed = [0; 3];
    for pressure in [0, 50, 51, 100, 101, 200, 201, 256, 0] {
        for number in numbers {
            fixture.set_pressure(number, pressure);
        }
        for (place, (source, priority)) in sources.iter().zip([50, 100, 200]).enumerate() {
            let expected = if priority < pressure { SHED } else { SENT };
            shed[place] += u64::from(expected == SHED);
            let port = 1000 + pressure as u16;
            assert_eq!(
                act(&mut fixture, source, port, vip, SYN),
                expected,
                "{source} at {pressure}"
            );
            // Open flows continue.
            assert_eq!(act(&mut fixture, source, port, vip, ACK), SENT);
        }
    }
    for (number, shed) in numbers.into_iter().zip(shed) {
        assert_eq!(fixture.refused(number, DropReason::Shed), shed);
    }
    // Datagrams that would open a flow of nat, and not those of an open one.
    let open = udp(true);
    assert_eq!(fixture.run(&open.bytes()).action, SENT);
    let nat = fixture.service(v4(vip::NAT), 17).id;
    fixture.set_pressure(nat, 101);
    assert_eq!(fixture.run(&open.bytes()).action, SENT);
    let other = TestPacket {
        source_port: 999,
        ..udp(true)
    };
    assert_eq!(fixture.run(&other.bytes()).action, SHED);
    // Without the flag the pressure is ignored.
    fixture.change_service(v4(vip::NAT), |service| {
        service.flags &= !service_flags::SHEDS
    });
    assert_eq!(fixture.run(&other.bytes()).action, SENT);
}

#[test]
fn counters_say_who_was_refused_and_why() {
    let mut fixture = Fixture::new();
    let vip = v4(vip::EXACT);
    let mut own = class(&mut fixture, (vip, TCP), 0, 2, &["10.1.0.0/16"], &[]);
    own.policy.flow_interval = INTERVAL;
    let empty = {
        let mut empty = class(&mut fixture, (vip, TCP), 1, 2, &["10.2.0.0/16"], &[]);
        empty.policy.slots_len = 0;
        empty
    };
    let outside = {
        let mut outside = class(&mut fixture, (vip, TCP), 2, 2, &["10.3.0.0/16"], &[]);
        outside.policy.regions = 0;
        outside
    };
    let numbers = [&own, &empty, &outside].map(|class| class.policy.id);
    fixture.set_classes(vec![own, empty, outside]);
    fixture.deny(&[("10.4.0.0".parse().unwrap(), 16)]);
    for source in ["10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1"] {
        act(&mut fixture, source, 1, vip, SYN);
        act(&mut fixture, source, 2, vip, SYN);
    }
    let [own, empty, outside] = numbers;
    let service = fixture.service(vip, TCP).id;
    for (number, reason, count) in [
        (own, DropReason::RateLimited, 1),
        // It was answered with a reset, and still counts.
        (empty, DropReason::NoBackend, 2),
        (outside, DropReason::Residency, 2),
        (service, DropReason::Denied, 2),
        (service, DropReason::NoBackend, 0),
        (own, DropReason::Residency, 0),
    ] {
        assert_eq!(
            fixture.refused(number, reason),
            count,
            "{number} {reason:?}"
        );
    }
    // A number reused by another class starts over.
    fixture.xdp.maps().clear_policy(own).unwrap();
    let counted = fixture.xdp.maps().counters().unwrap().admission_drops[&own];
    assert!(counted.counts().all(|(_, count)| count == 0));
}
