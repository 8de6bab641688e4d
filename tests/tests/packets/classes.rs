//! Classes of a service's clients, by source prefix and DSCP.

use std::net::IpAddr;

use steer_common::{
    Action,
    abi::{ClassMatch, Service, ServiceKey, Slot, service_flags},
    verdict::DropReason,
};
use steer_core::dataplane::Class;
use steer_tests::packet::{ACK, SYN, TestPacket};

use crate::{
    fixture::{Fixture, PORT, client, macs_to, v4, v6, vip},
    nat::forward,
};

const SENT: Action = Action::Transmit(1);
const TCP: u8 = 6;
const UDP: u8 = 17;
/// First slot that no service of the fixture uses.
pub(crate) const SLOTS: u32 = 32;

/// Creates a class of a service with one slot, which leads to a member. Its number is that of the
/// slot.
pub(crate) fn class(
    fixture: &mut Fixture,
    (vip, protocol): (IpAddr, u8),
    number: u32,
    member: u16,
    sources: &[&str],
    dscp: &[u8],
) -> Class {
    let service = fixture.service(vip, protocol);
    let slot = SLOTS + number;
    fixture.set_slot(slot, Slot::owned_by(member, member));
    Class {
        policy: Service {
            key: ServiceKey {
                class: number + 1,
                ..service.key
            },
            slots_start: slot,
            slots_len: 1,
            id: slot as u16,
            ..service
        },
        sources: sources.iter().map(|text| prefix(text)).collect(),
        dscp: dscp.to_vec(),
    }
}

fn prefix(text: &str) -> (IpAddr, u8) {
    let (address, len) = text.split_once('/').unwrap();
    (address.parse().unwrap(), len.parse().unwrap())
}

fn from(source: &str, vip: IpAddr, dscp: u8) -> TestPacket {
    let mut packet = TestPacket::tcp((source.parse().unwrap(), 4000), (vip, PORT), SYN);
    // The last two bits are those of ECN.
    packet.tos = dscp << 2 | 2;
    packet
}

/// Returns the destination MAC address of the frame.
fn goes_to(fixture: &mut Fixture, packet: &TestPacket) -> u16 {
    let ran = fixture.run(&packet.bytes());
    assert_eq!(ran.action, SENT);
    let found = (1..=8).find(|id| ran.bytes[..6] == macs_to(*id)[0]);
    found.expect("it goes to a member")
}

#[test]
fn the_longest_prefix_of_ipv4_wins() {
    let mut fixture = Fixture::new();
    let exact = (v4(vip::EXACT), TCP);
    let cross = v4(vip::CROSS);
    let classes = vec![
        class(&mut fixture, exact, 0, 2, &["10.0.0.0/8"], &[]),
        class(
            &mut fixture,
            exact,
            1,
            3,
            &["10.1.0.0/16", "192.0.2.0/25"],
            &[],
        ),
        class(&mut fixture, exact, 2, 4, &["10.1.2.3/32"], &[]),
    ];
    fixture.set_classes(classes);
    for (source, member) in [
        ("10.0.0.1", 2),
        ("10.255.255.255", 2),
        ("10.1.0.0", 3),
        ("10.1.2.2", 3),
        ("10.1.2.3", 4),
        ("10.1.2.4", 3),
        ("192.0.2.127", 3),
        ("192.0.2.128", 1),
        ("9.255.255.255", 1),
        ("11.0.0.0", 1),
    ] {
        let packet = from(source, exact.0, 0);
        assert_eq!(goes_to(&mut fixture, &packet), member, "{source}");
        // An open flow of it, too.
        let open = TestPacket::tcp((packet.source, 4001), (exact.0, PORT), ACK);
        assert_eq!(goes_to(&mut fixture, &open), member, "{source}");
        // Others have no classes.
        assert_eq!(goes_to(&mut fixture, &from(source, cross, 0)), 3);
        let datagram = TestPacket::udp((packet.source, 4001), (exact.0, PORT));
        assert_eq!(goes_to(&mut fixture, &datagram), 1);
    }
    fixture.check_counters();
}

#[test]
fn the_longest_prefix_of_ipv6_wins() {
    let mut fixture = Fixture::new();
    let exact = (v6(vip::EXACT), TCP);
    let classes = vec![
        class(&mut fixture, exact, 0, 1, &["2001:db8::/32"], &[]),
        class(&mut fixture, exact, 1, 2, &["2001:db8:1::/48"], &[]),
        class(
            &mut fixture,
            exact,
            2,
            4,
            &["2001:db8:1::7/128", "::/1"],
            &[],
        ),
    ];
    fixture.set_classes(classes);
    for (source, member) in [
        ("2001:db8::1", 1),
        ("2001:db8:0:ffff::", 1),
        ("2001:db8:1::6", 2),
        ("2001:db8:1::7", 4),
        ("2001:db8:1::8", 2),
        ("2001:db9::1", 4),
        ("fd00::1", 3),
    ] {
        let packet = from(source, exact.0, 0);
        assert_eq!(goes_to(&mut fixture, &packet), member, "{source}");
    }
    fixture.check_counters();
}

#[test]
fn dscps_refine_a_prefix_and_leave_the_rest_to_shorter_ones() {
    for (address, near, far) in [
        (v4(vip::EXACT), "10.1.0.0/16", "10.0.0.0/8"),
        (v6(vip::EXACT), "2001:db8::/32", "2001::/16"),
    ] {
        let mut fixture = Fixture::new();
        let exact = (address, TCP);
        let rest = goes_to(
            &mut fixture,
            &from(
                match address {
                    IpAddr::V4(_) => "172.16.0.1",
                    IpAddr::V6(_) => "fd00::1",
                },
                address,
                0,
            ),
        );
        let others: Vec<u16> = (1..=4).filter(|id| *id != rest).collect();
        let [wide, marked, narrow] = others[..] else {
            panic!("three members are left");
        };
        let classes = vec![
            class(&mut fixture, exact, 0, wide, &[far], &[]),
            // For any client.
            class(&mut fixture, exact, 1, marked, &[], &[46, 0]),
            class(&mut fixture, exact, 2, narrow, &[near], &[10, 63]),
        ];
        fixture.set_classes(classes);
        let [inside, beside, outside] = match address {
            IpAddr::V4(_) => ["10.1.2.3", "10.2.0.1", "172.16.0.1"],
            IpAddr::V6(_) => ["2001:db8::1", "2001:db9::1", "fd00::1"],
        };
        for (source, dscp, member) in [
            (inside, 10, narrow),
            (inside, 63, narrow),
            // The prefix decides before the DSCP does.
            (inside, 46, wide),
            (inside, 11, wide),
            (beside, 10, wide),
            (beside, 46, wide),
            (outside, 46, marked),
            (outside, 0, marked),
            (outside, 45, rest),
            (outside, 10, rest),
        ] {
            let packet = from(source, address, dscp);
            assert_eq!(
                goes_to(&mut fixture, &packet),
                member,
                "{source} with DSCP {dscp}"
            );
        }
        fixture.check_counters();
    }
}

#[test]
fn classes_change_all_at_once_and_leave_nothing_behind() {
    let mut fixture = Fixture::new();
    let exact = (v4(vip::EXACT), TCP);
    let packet = from("10.1.2.3", exact.0, 46);
    for round in 0..5 {
        let marked = class(&mut fixture, exact, 0, 2, &["10.1.0.0/16"], &[46]);
        let all = class(&mut fixture, exact, 1, 3, &["10.1.2.0/24"], &[]);
        fixture.set_classes(vec![marked.clone()]);
        assert_eq!(goes_to(&mut fixture, &packet), 2, "round {round}");
        fixture.set_classes(vec![all.clone(), marked.clone()]);
        assert_eq!(goes_to(&mut fixture, &packet), 3, "round {round}");
        // Another order puts them at other positions.
        fixture.set_classes(vec![marked, all]);
        assert_eq!(goes_to(&mut fixture, &packet), 3, "round {round}");
        fixture.set_classes(Vec::new());
        assert_eq!(goes_to(&mut fixture, &packet), 1, "round {round}");
        assert!(
            fixture.host.snapshot_mut().classes.len() <= 4,
            "old entries stay"
        );
    }
}

#[test]
fn a_class_has_its_own_regions_end_and_limit() {
    let mut fixture = Fixture::new();
    for id in 1..=8 {
        fixture.change(id, |member| member.region = (id % 2) as u8);
    }
    let exact = (v4(vip::EXACT), TCP);
    let inside = from("10.1.2.3", exact.0, 0);
    let mut own = class(&mut fixture, exact, 0, 2, &["10.0.0.0/8"], &[]);
    // Members with odd numbers only, contrary to its table.
    own.policy.regions = 2;
    fixture.set_classes(vec![own.clone()]);
    let outside = Action::Drop(DropReason::Residency);
    assert_eq!(fixture.run(&inside.bytes()).action, outside);
    assert_eq!(goes_to(&mut fixture, &from("11.0.0.1", exact.0, 0)), 1);
    // The service's own regions do not apply to the class.
    fixture.change_service(exact.0, |service| service.regions = 1);
    own.policy.regions = 3;
    fixture.set_classes(vec![own.clone()]);
    assert_eq!(goes_to(&mut fixture, &inside), 2);

    own.policy.flow_interval = 4_000_000_000;
    own.policy.flow_burst = 0;
    fixture.set_classes(vec![own.clone()]);
    assert_eq!(goes_to(&mut fixture, &inside), 2);
    let limited = Action::Drop(DropReason::RateLimited);
    assert_eq!(fixture.run(&inside.bytes()).action, limited);
    assert_eq!(goes_to(&mut fixture, &from("11.0.0.1", exact.0, 0)), 2);

    own.policy.slots_len = 0;
    own.policy.flags &= !service_flags::REJECT;
    fixture.set_classes(vec![own]);
    let empty = Action::Drop(DropReason::NoBackend);
    assert_eq!(fixture.run(&inside.bytes()).action, empty);
}

#[test]
fn fragments_and_nat_flows_are_judged_by_their_class() {
    let mut fixture = Fixture::new();
    for id in 1..=8 {
        fixture.change(id, |member| member.region = (id % 2) as u8);
    }
    let (source, _) = client(true);
    let exact = (v4(vip::EXACT), UDP);
    let classes = vec![
        class(&mut fixture, exact, 0, 2, &["192.0.2.0/24"], &[]),
        class(
            &mut fixture,
            (v4(vip::NAT), TCP),
            1,
            6,
            &["192.0.2.0/24"],
            &[],
        ),
    ];
    fixture.set_classes(classes.clone());
    let parts = TestPacket {
        fragment: 0,
        payload: vec![7; 64],
        ..TestPacket::udp((source, 4000), (exact.0, PORT))
    }
    .fragments(24);
    for part in &parts {
        let ran = fixture.run(part);
        assert_eq!((ran.action, &ran.bytes[..6]), (SENT, &macs_to(2)[0][..]));
    }
    let nat = TestPacket::tcp(client(true), (v4(vip::NAT), PORT), SYN);
    forward(&mut fixture, &nat, 6);

    // Open flows are dropped as soon as the class may not be served from there.
    let mut narrower = classes;
    for class in &mut narrower {
        class.policy.regions = 2;
    }
    fixture.set_classes(narrower);
    let outside = Action::Drop(DropReason::Residency);
    assert_eq!(fixture.run(&parts[1]).action, outside);
    let open = TestPacket::tcp(client(true), (v4(vip::NAT), PORT), ACK);
    assert_eq!(fixture.run(&open.bytes()).action, outside);
}

#[test]
fn an_entry_that_leads_to_another_service_leads_nowhere() {
    let mut fixture = Fixture::new();
    let exact = (v4(vip::EXACT), TCP);
    let any = (v4(vip::ANY), TCP);
    let classes = vec![
        class(&mut fixture, exact, 0, 2, &["10.0.0.0/8"], &[]),
        class(&mut fixture, any, 1, 3, &["10.0.0.0/8"], &[]),
    ];
    fixture.set_classes(classes);
    let found = fixture.host.snapshot_mut().classes.clone();
    let packet = from("10.1.2.3", exact.0, 0);
    assert_eq!(goes_to(&mut fixture, &packet), 2);
    for (place, entry) in &found {
        for wrong in [
            // The class of the other service, a missing one, and a missing table.
            ClassMatch {
                policy: found.values().find(|e| *e != entry).unwrap().policy,
                table: 0,
            },
            ClassMatch {
                policy: u16::MAX,
                table: 0,
            },
            ClassMatch {
                policy: 0,
                table: u16::MAX,
            },
        ] {
            fixture.xdp.maps().set_class(*place, wrong).unwrap();
            fixture.copy();
            for vip in [exact.0, any.0] {
                let ran = fixture.run(&from("10.1.2.3", vip, 0).bytes());
                let own = fixture.service(vip, TCP).id;
                if place.0.scope() & 0x3fff == own {
                    assert_eq!(ran.action, Action::Drop(DropReason::Internal), "{wrong:?}");
                } else {
                    assert_eq!(ran.action, SENT);
                }
            }
        }
        fixture.xdp.maps().set_class(*place, *entry).unwrap();
        fixture.copy();
    }
}
