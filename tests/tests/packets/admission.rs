//! Admission control: denied clients, rate limits, and regions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::{
    Action,
    abi::{
        Address, ClassKey, ClassMatch, MAX_CLASS_POLICIES, MAX_DSCP_TABLES, MemberState, Service,
        ServiceKey, Slot,
    },
    verdict::DropReason,
};
use steer_core::dataplane::Class;
use steer_tests::packet::{ACK, RST, SYN, TestPacket, Transport};

use crate::{
    classes::class,
    fixture::{Fixture, PORT, V6_SLOTS, backend, client, v4, v6, vip},
    nat::{forward, udp},
};

const SENT: Action = Action::Transmit(1);
const DENIED: Action = Action::Drop(DropReason::Denied);
const LIMITED: Action = Action::Drop(DropReason::RateLimited);
const OUTSIDE: Action = Action::Drop(DropReason::Residency);

fn tcp(is_v4: bool, vip: u8, flags: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket::tcp(client(is_v4), (address, PORT), flags)
}

#[test]
fn clients_that_are_denied_reach_no_service_and_all_else() {
    let mut fixture = Fixture::new();
    let prefixes = |v4_len, v6_len| {
        [
            (IpAddr::from(Ipv4Addr::new(192, 0, 2, 0)), v4_len),
            (
                IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)),
                v6_len,
            ),
        ]
    };
    for (v4_len, v6_len, denied) in [
        (24, 64, true),
        (29, 125, true),
        // The client is host 7 of both.
        (30, 126, false),
        (32, 128, false),
    ] {
        fixture.deny(&prefixes(v4_len, v6_len));
        for is_v4 in [true, false] {
            let expected = if denied { DENIED } else { SENT };
            for flags in [SYN, ACK] {
                let packet = tcp(is_v4, vip::EXACT, flags);
                assert_eq!(fixture.run(&packet.bytes()).action, expected, "/{v4_len}");
            }
            let elsewhere = tcp(is_v4, vip::UNKNOWN, SYN);
            assert_eq!(fixture.run(&elsewhere.bytes()).action, Action::Pass);
        }
    }
    // All of IPv4, and all of IPv6.
    fixture.deny(&[(Ipv6Addr::UNSPECIFIED.into(), 0)]);
    let packet = tcp(false, vip::EXACT, SYN);
    assert_eq!(fixture.run(&packet.bytes()).action, DENIED);
    fixture.deny(&[]);
    assert_eq!(fixture.run(&packet.bytes()).action, SENT);
}

#[test]
fn a_service_takes_its_burst_of_new_flows_and_open_ones_besides() {
    let mut fixture = Fixture::new();
    for vip in [v4(vip::EXACT), v4(vip::NAT)] {
        fixture.change_service(vip, |service| {
            // The next one would be due in four seconds.
            service.flow_interval = 4_000_000_000;
            service.flow_burst = 2 * u64::from(service.flow_interval);
        });
    }
    let syn = |port: u16| TestPacket {
        source_port: port,
        ..tcp(true, vip::EXACT, SYN)
    };
    for port in 0..3 {
        assert_eq!(fixture.run(&syn(1000 + port).bytes()).action, SENT);
    }
    for port in 3..6 {
        assert_eq!(fixture.run(&syn(1000 + port).bytes()).action, LIMITED);
    }
    assert_eq!(
        fixture.run(&tcp(true, vip::EXACT, ACK).bytes()).action,
        SENT
    );
    // Another service has its own limit, and datagrams of nat flows count once per flow.
    for port in 0..3 {
        let packet = TestPacket {
            source_port: 1000 + port,
            ..udp(true)
        };
        forward(&mut fixture, &packet, 5);
        forward(&mut fixture, &packet, 5);
    }
    assert_eq!(fixture.run(&udp(true).bytes()).action, LIMITED);
    fixture.check_counters();
}

#[test]
fn packets_stay_in_the_regions_of_their_service() {
    let mut fixture = Fixture::new();
    for id in 1..=8 {
        // Odd members here, even ones there.
        fixture.change(id, |member| member.region = (id % 2) as u8);
    }
    for is_v4 in [true, false] {
        let [exact, nat] =
            [vip::EXACT, vip::NAT].map(|last| if is_v4 { v4(last) } else { v6(last) });
        let [first, second] = if is_v4 { [1, 2] } else { [3, 4] };
        let slot = u32::from(vip::EXACT) + if is_v4 { 0 } else { V6_SLOTS };
        let port = forward(
            &mut fixture,
            &TestPacket::tcp(client(is_v4), (nat, PORT), SYN),
            if is_v4 { 5 } else { 7 },
        );
        assert!(port > 0);
        for vip in [exact, nat] {
            fixture.change_service(vip, |service| service.regions = 1);
        }
        // The first choice is outside, so the second one serves.
        let sent = fixture.run(&tcp(is_v4, vip::EXACT, SYN).bytes());
        assert_eq!(sent.bytes[5], second as u8, "the member's MAC address");
        fixture.set_slot(slot, Slot::owned_by(first, first));
        assert_eq!(
            fixture.run(&tcp(is_v4, vip::EXACT, SYN).bytes()).action,
            OUTSIDE
        );
        // Open flows there end.
        let known = TestPacket::tcp(client(is_v4), (nat, PORT), ACK);
        assert_eq!(fixture.run(&known.bytes()).action, OUTSIDE);
        let open = TestPacket {
            source_port: 999,
            ..tcp(is_v4, vip::EXACT, ACK)
        };
        let ran = fixture.run(&open.bytes());
        let flags = if is_v4 { ran.bytes[47] } else { ran.bytes[67] };
        assert_eq!((ran.action, flags & RST), (SENT, RST));
        // No region, and one that no mask can have.
        fixture.change_service(exact, |service| service.regions = 0);
        assert_eq!(
            fixture.run(&tcp(is_v4, vip::EXACT, SYN).bytes()).action,
            OUTSIDE
        );
        fixture.change_service(exact, |service| service.regions = u64::MAX);
        fixture.change(first, |member| member.region = 64);
        assert_eq!(
            fixture.run(&tcp(is_v4, vip::EXACT, SYN).bytes()).action,
            OUTSIDE
        );
    }
}

const VIPS: [u8; 4] = [vip::EXACT, vip::NAT, vip::CROSS, vip::RESTEER];

fn any_class(fixture: &mut Fixture, random: &mut StdRng, number: u32) -> Class {
    let vip = v4(VIPS[random.random_range(0..4)]);
    let protocol = [6, 17][random.random_range(0..2)];
    let sources = ["192.0.2.7/32", "192.0.2.0/24", "192.0.0.0/12", "0.0.0.0/0"];
    let sources = &sources[random.random_range(0..4)..];
    let dscp: Vec<u8> = (0..random.random_range(0..60))
        .map(|_| random.random_range(0..64))
        .collect();
    let member = random.random_range(0..=9);
    let mut class = class(fixture, (vip, protocol), number, member, sources, &dscp);
    class.policy.regions = random.random_range(0..16);
    class
}

/// Writes an entry into the trie of classes that no daemon would write.
fn any_entry(fixture: &mut Fixture, random: &mut StdRng) {
    let vip = v4(VIPS[random.random_range(0..4)]);
    let snapshot = fixture.host.snapshot_mut();
    let with_classes = snapshot
        .services
        .iter()
        .filter(|s| s.key.address == vip.into());
    let Some(scope) = with_classes.map(|s| s.classes).find(|scope| *scope != 0) else {
        return;
    };
    let bank = scope >> 15;
    let policies = [
        0,
        bank * MAX_CLASS_POLICIES as u16 + random.random_range(0..9),
        random.random(),
    ];
    let tables = [
        0,
        bank * MAX_DSCP_TABLES as u16 + random.random_range(0..9),
        random.random(),
    ];
    let entry = ClassMatch {
        policy: policies[random.random_range(0..3)],
        table: tables[random.random_range(0..3)],
    };
    let place = (ClassKey::new(scope, client(true).0.into()), 128);
    fixture.xdp.maps().set_class(place, entry).unwrap();
    fixture.copy();
}

/// Returns the regions that a packet may go to by the tables, computed in the simplest way.
fn allowed(fixture: &mut Fixture, packet: &TestPacket) -> u64 {
    let protocol = match packet.transport {
        Transport::Udp { .. } => 17,
        _ => 6,
    };
    let snapshot = fixture.host.snapshot_mut();
    let is_service =
        |s: &&Service| s.key.address == packet.destination.into() && s.key.protocol == protocol;
    let service = snapshot.services.iter().find(is_service).unwrap();
    let bits = |address: Address| address.to_ipv6().to_bits();
    let source = bits(packet.source.into());
    let longest = snapshot
        .classes
        .iter()
        .filter(|((key, len), _)| {
            let differ = bits(key.client()) ^ source;
            key.scope() == service.classes && differ.leading_zeros() >= *len
        })
        .max_by_key(|((_, len), _)| *len);
    let Some((_, found)) = longest else {
        return service.regions;
    };
    let policy = match found.table {
        0 => found.policy,
        table => match snapshot.dscp_tables.get(usize::from(table)) {
            Some(table) => table.0[usize::from(packet.tos >> 2)],
            None => return 0,
        },
    };
    if policy == 0 {
        return service.regions;
    }
    match snapshot.policies.get(usize::from(policy)) {
        Some(policy)
            if ServiceKey {
                class: 0,
                ..policy.key
            } == service.key =>
        {
            policy.regions
        }
        _ => 0,
    }
}

#[test]
fn whatever_the_tables_say_no_packet_leaves_its_regions() {
    let seed = 20_261_126;
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new();
    fixture.stop_the_clock();
    let (mut sent, mut refused) = (0, 0);
    for number in 0..6000 {
        if number % 3 == 0 {
            let id = random.random_range(1..=8);
            let region = random.random_range(0..4);
            fixture.change(id, |member| {
                member.region = region;
            });
            let states = [MemberState::Up, MemberState::Draining, MemberState::Down];
            fixture.set_state(id, states[random.random_range(0..3)]);
            let vip = random.random_range(1..=vip::RESTEER);
            let mut member = || random.random_range(0..=9);
            let index = u32::from(vip);
            let slot = Slot {
                owner: member(),
                first: member(),
                second: member(),
                track: fixture.slot(index).track,
                seen: 0,
            };
            fixture.set_slot(index, slot);
        }
        // A publication waits until no packet can use the other bank.
        if number % 120 == 0 {
            let vip = VIPS[random.random_range(0..4)];
            let regions = random.random_range(0..16);
            let classes = (0..6).map(|number| any_class(&mut fixture, &mut random, number));
            fixture.classes = classes.collect();
            fixture.change_service(v4(vip), |service| service.regions = regions);
        }
        if number % 120 == 60 {
            any_entry(&mut fixture, &mut random);
        }
        let vip = VIPS[random.random_range(0..4)];
        let from = (client(true).0, 40_000 + random.random_range(0..8));
        let mut packet = match random.random_range(0..4) {
            0 => TestPacket::udp(from, (v4(vip), PORT)),
            1 => TestPacket::tcp(from, (v4(vip), PORT), SYN),
            _ => TestPacket::tcp(from, (v4(vip), PORT), ACK),
        };
        packet.tos = random.random();
        let allowed = allowed(&mut fixture, &packet);
        let frames = if random.random_ratio(1, 4) {
            let fragment = TestPacket {
                fragment: 0,
                ..packet
            };
            fragment.fragments(24)
        } else {
            vec![packet.bytes()]
        };
        for frame in frames {
            let ran = fixture.run(&frame);
            if ran.action != SENT {
                refused += usize::from(ran.action == OUTSIDE);
                continue;
            }
            // Resets go to the client.
            let Some(member) = (1..=8).find(|id| ran.bytes[..6] == crate::fixture::macs_to(*id)[0])
            else {
                continue;
            };
            sent += 1;
            let regions = allowed;
            let region = fixture.host.snapshot_mut().members[usize::from(member)].region;
            assert!(
                regions >> region & 1 != 0,
                "packet {number} of {seed}: to {} in region {region}, of {regions:#x}",
                backend(member)
            );
        }
    }
    assert!(
        sent > 500 && refused > 100,
        "{sent} sent, {refused} refused"
    );
}
