//! QUIC: connection ids that name a server, and packets steered by their 5-tuple.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rand::{Rng as _, rngs::StdRng};
use steer_common::{
    Action,
    abi::{MemberState, Mode, Slot, service_flags},
    verdict::DropReason,
};
use steer_tests::packet::{SYN, TestPacket, Transport, ethernet, icmp, ip_around};

use crate::{
    encap::{outer_v4, outer_v6},
    fixture::{
        Fixture, LAYOUTS, OUTER_V4, PORT, V6_SLOTS, client, hex, macs_to, server_id, v4, v6, vip,
    },
    nat,
};

const SENT: Action = Action::Transmit(1);
pub(crate) const VERSIONS: [u32; 3] = [1, 0x6b33_43cf, 0x1a2a_3a4a];

/// A type of header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
    Negotiation,
    Short,
}

pub(crate) const KINDS: [Kind; 6] = [
    Kind::Initial,
    Kind::ZeroRtt,
    Kind::Handshake,
    Kind::Retry,
    Kind::Negotiation,
    Kind::Short,
];

impl Kind {
    /// Returns whether a client opens a connection with it; in an unknown version any long header
    /// does.
    pub(crate) fn opens(self, version: u32) -> bool {
        match self {
            Self::Initial | Self::ZeroRtt => true,
            Self::Handshake | Self::Retry => version == VERSIONS[2],
            Self::Negotiation | Self::Short => false,
        }
    }

    /// Returns the datagram.
    pub(crate) fn datagram(self, version: u32, id: &[u8]) -> Vec<u8> {
        let number: u8 = match (self, version) {
            (Self::Short, _) => {
                let mut bytes = vec![0x41];
                bytes.extend(id);
                bytes.extend([0x5a; 30]);
                return bytes;
            }
            (Self::Initial, 0x6b33_43cf) => 1,
            (Self::ZeroRtt, 0x6b33_43cf) => 2,
            (Self::Handshake, 0x6b33_43cf) => 3,
            (Self::Retry, 0x6b33_43cf) | (Self::Initial | Self::Negotiation, _) => 0,
            (Self::ZeroRtt, _) => 1,
            (Self::Handshake, _) => 2,
            (Self::Retry, _) => 3,
        };
        let version = if self == Self::Negotiation {
            0
        } else {
            version
        };
        let mut bytes = vec![0xc0 | number << 4];
        bytes.extend(version.to_be_bytes());
        bytes.push(id.len() as u8);
        bytes.extend(id);
        bytes.extend([4, 1, 2, 3, 4]);
        bytes.extend([0x5a; 30]);
        bytes
    }
}

/// Returns a connection id of a member's server.
pub(crate) fn id_of(member: u16, (rotation, id, nonce): (u8, usize, usize)) -> Vec<u8> {
    let mut bytes = vec![rotation << 5 | 0x0b];
    bytes.extend(server_id(member, id));
    bytes.extend(vec![0x77; nonce]);
    bytes
}

pub(crate) fn packet(is_v4: bool, vip: u8, payload: Vec<u8>) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket {
        payload,
        ..TestPacket::udp(client(is_v4), (address, PORT))
    }
}

/// Returns the same packet from another address and port.
pub(crate) fn moved(packet: &TestPacket) -> TestPacket {
    let source = if packet.source.is_ipv4() {
        Ipv4Addr::new(198, 51, 100, 9).into()
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9))
    };
    TestPacket {
        source,
        source_port: 61_234,
        ..packet.clone()
    }
}

/// Returns the members of the service for QUIC over ipip.
pub(crate) const fn members(is_v4: bool) -> [u16; 2] {
    if is_v4 { [1, 2] } else { [3, 4] }
}

pub(crate) fn slot(is_v4: bool, vip: u8) -> u32 {
    u32::from(vip) + if is_v4 { 0 } else { V6_SLOTS }
}

/// Creates a service whose table is changing: new flows go to its first member, open ones belong to
/// the second.
pub(crate) fn moving(fixture: &mut Fixture, is_v4: bool) {
    let [first, owner] = members(is_v4);
    let slot_of = Slot {
        owner,
        first,
        second: owner,
        ..Slot::default()
    };
    fixture.set_slot(slot(is_v4, vip::QUIC), slot_of);
}

/// Sends a packet, and compares the frame to the member completely: with usual headers by the usual
/// program, and with rarer ones by the other program.
pub(crate) fn expect(fixture: &mut Fixture, packet: &TestPacket, member: u16) {
    let tagged = TestPacket {
        tags: vec![(0x8100, 7)],
        ..packet.clone()
    };
    let mut ways = [packet, &tagged];
    if packet.payload.len() % 2 == 1 {
        ways.reverse();
    }
    for sent in ways {
        expect_once(fixture, sent, member);
    }
}

/// Works like [`expect`], by one program.
fn expect_once(fixture: &mut Fixture, packet: &TestPacket, member: u16) {
    let ran = fixture.run(&packet.bytes());
    assert_eq!(ran.action, SENT, "{:02x?}", packet.payload);
    // Tags are those of the path to the member, which has none.
    let inner = TestPacket {
        tags: Vec::new(),
        ..packet.clone()
    };
    let expected = if packet.source.is_ipv4() {
        outer_v4(&inner, member)
    } else {
        outer_v6(&inner, member, &ran.bytes)
    };
    assert_eq!(hex(&ran.bytes), hex(&expected), "{:02x?}", packet.payload);
}

/// Returns whether there are no entries.
fn nothing(fixture: &mut Fixture) -> bool {
    fixture.xdp.maps().flow_counts().unwrap() == [0, 0]
}

#[test]
fn every_header_goes_where_its_id_says_and_is_not_remembered() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        moving(&mut fixture, is_v4);
        for member in members(is_v4) {
            for layout in LAYOUTS {
                for version in VERSIONS {
                    for kind in KINDS {
                        let datagram = kind.datagram(version, &id_of(member, layout));
                        let packet = packet(is_v4, vip::QUIC, datagram);
                        expect(&mut fixture, &packet, member);
                        expect(&mut fixture, &moved(&packet), member);
                    }
                }
            }
        }
    }
    assert!(nothing(&mut fixture));
    fixture.check_counters();
}

/// Returns ids that name no server: of no layout, unroutable, too short, of no server, of another
/// service's.
fn strangers() -> Vec<Vec<u8>> {
    let known = id_of(1, LAYOUTS[1]);
    let with_first = |first: u8| {
        let mut id = known.clone();
        id[0] = first;
        id
    };
    vec![
        with_first(0x20),
        with_first(0xe0),
        with_first(0xff),
        id_of(9, LAYOUTS[0]),
        id_of(9, LAYOUTS[1]),
        id_of(5, LAYOUTS[1]),
        vec![],
        vec![0x55; 20],
    ]
}

#[test]
fn ids_that_name_nobody_leave_it_to_the_5_tuple() {
    let mut fixture = Fixture::new();
    let mut remembered = 0;
    let mut flow = 1000;
    for is_v4 in [true, false] {
        moving(&mut fixture, is_v4);
        let [first, owner] = members(is_v4);
        for id in strangers() {
            for version in VERSIONS {
                for kind in KINDS {
                    flow += 1;
                    let packet = TestPacket {
                        source_port: flow,
                        ..packet(is_v4, vip::QUIC, kind.datagram(version, &id))
                    };
                    let opens = kind.opens(version);
                    let member = if opens { first } else { owner };
                    expect(&mut fixture, &packet, member);
                    remembered += usize::from(opens);
                }
            }
        }
    }
    assert_eq!(fixture.xdp.maps().flow_counts().unwrap(), [0, remembered]);
}

#[test]
fn an_id_that_the_datagram_cuts_off_is_none() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let [first, other] = members(is_v4);
        let id = id_of(other, LAYOUTS[0]);
        for kind in KINDS {
            let whole = kind.datagram(1, &id);
            let end = if kind == Kind::Short { 1 } else { 6 } + id.len();
            for len in 0..whole.len() {
                let packet = TestPacket {
                    // Bytes after the datagram are not part of it.
                    padding: 20,
                    ..packet(is_v4, vip::QUIC, whole[..len].to_vec())
                };
                let member = if len < end { first } else { other };
                expect(&mut fixture, &packet, member);
            }
        }
    }
}

#[test]
fn an_unnamed_flow_stays_where_it_began() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        moving(&mut fixture, is_v4);
        let [first, owner] = members(is_v4);
        let id = [0xe7; 8];
        let send = |kind: Kind| packet(is_v4, vip::QUIC, kind.datagram(1, &id));
        expect(&mut fixture, &send(Kind::Initial), first);
        assert_eq!(fixture.xdp.maps().flow_counts().unwrap(), [0, 1]);
        expect(&mut fixture, &send(Kind::Initial), first);
        expect(&mut fixture, &send(Kind::Short), first);
        assert_eq!(fixture.xdp.maps().flow_counts().unwrap(), [1, 0]);
        expect(&mut fixture, &moved(&send(Kind::Short)), owner);
        // The table changes again; flows with entries stay.
        let moved_on = Slot {
            owner,
            first: owner,
            second: first,
            ..fixture.slot(slot(is_v4, vip::QUIC))
        };
        fixture.set_slot(slot(is_v4, vip::QUIC), moved_on);
        expect(&mut fixture, &send(Kind::Handshake), first);
    }
}

#[test]
fn gue_and_l2_members_are_found_as_well() {
    let mut fixture = Fixture::new();
    for (mode, growth) in [(Mode::Gue, 28), (Mode::L2, 0)] {
        for is_v4 in [true, false] {
            let [_, other] = members(is_v4);
            fixture.change(other, |member| member.mode = mode as u8);
            let id = id_of(other, LAYOUTS[1]);
            let packet = packet(is_v4, vip::QUIC, Kind::Short.datagram(1, &id));
            for packet in [&packet, &moved(&packet)] {
                let ran = fixture.run(&packet.bytes());
                assert_eq!(ran.action, SENT);
                assert_eq!(ran.bytes[..12], macs_to(other).concat()[..]);
                let growth = match (growth, is_v4) {
                    (28, false) => 48,
                    (growth, _) => growth,
                };
                assert_eq!(ran.bytes.len(), packet.bytes().len() + growth);
            }
        }
    }
}

pub(crate) fn nat_members(is_v4: bool) -> [u16; 2] {
    if is_v4 { [5, 6] } else { [7, 8] }
}

#[test]
fn a_client_that_moves_gets_a_new_entry_to_the_same_member() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let [first, other] = nat_members(is_v4);
        let opening = packet(is_v4, vip::QUIC_NAT, Kind::Initial.datagram(1, &[0xe7; 8]));
        let port = nat::forward(&mut fixture, &opening, first);
        nat::back(
            &mut fixture,
            &nat::answer(&opening, first, port, 0),
            &opening,
        );
        // The slot changes meanwhile.
        fixture.set_slot(slot(is_v4, vip::QUIC_NAT), Slot::owned_by(other, first));
        let id = id_of(first, LAYOUTS[1]);
        let open = packet(is_v4, vip::QUIC_NAT, Kind::Short.datagram(1, &id));
        assert_eq!(nat::forward(&mut fixture, &open, first), port, "one entry");
        let moved = moved(&open);
        let again = nat::forward(&mut fixture, &moved, first);
        nat::back(&mut fixture, &nat::answer(&moved, first, again, 0), &moved);
        assert_eq!(nat::forward(&mut fixture, &moved, first), again);
        // Answers in flight still reach the old address.
        nat::back(&mut fixture, &nat::answer(&open, first, port, 0), &open);
        fixture.check_counters();
        assert_eq!(fixture.host.counters.borrow()[&first].flows, 2);
    }
}

#[test]
fn connections_of_one_5_tuple_go_to_their_own_members() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let members = nat_members(is_v4);
        let packets = members.map(|member| {
            let id = id_of(member, LAYOUTS[0]);
            packet(is_v4, vip::QUIC_NAT, Kind::Short.datagram(1, &id))
        });
        let mut ports = [0; 2];
        for _ in 0..2 {
            for ((member, packet), known) in members.into_iter().zip(&packets).zip(&mut ports) {
                let port = nat::forward(&mut fixture, packet, member);
                assert!(*known == 0 || *known == port);
                *known = port;
                nat::back(&mut fixture, &nat::answer(packet, member, port, 0), packet);
            }
        }
    }
}

#[test]
fn an_unnamed_flow_under_nat_stays_with_its_member() {
    let mut fixture = Fixture::new();
    fixture.set_slot(
        u32::from(vip::QUIC_NAT),
        Slot {
            owner: 6,
            first: 5,
            second: 6,
            ..Slot::default()
        },
    );
    let send = |kind: Kind| packet(true, vip::QUIC_NAT, kind.datagram(1, &[0xe7; 8]));
    let port = nat::forward(&mut fixture, &send(Kind::Initial), 5);
    assert_eq!(nat::forward(&mut fixture, &send(Kind::Short), 5), port);
    nat::forward(&mut fixture, &moved(&send(Kind::Short)), 6);
}

#[test]
fn what_may_go_no_further_takes_no_port() {
    let mut fixture = Fixture::new();
    let packet = TestPacket {
        ttl: 1,
        ..packet(true, vip::QUIC_NAT, Kind::Initial.datagram(1, &[0xe7; 8]))
    };
    let expired = Action::Drop(DropReason::TtlExpired);
    assert_eq!(fixture.run(&packet.bytes()).action, expired);
    assert!(fixture.host.reverse.borrow().is_empty());
}

#[test]
fn a_draining_member_keeps_its_connections_and_gets_no_new_ones() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let [first, other] = members(is_v4);
        fixture.set_state(first, MemberState::Draining);
        let named = id_of(first, LAYOUTS[0]);
        for kind in KINDS {
            // The second flight of a handshake has Initials with the server's id.
            let open = packet(is_v4, vip::QUIC, kind.datagram(1, &named));
            expect(&mut fixture, &open, first);
        }
        let new = packet(is_v4, vip::QUIC, Kind::Initial.datagram(1, &[0xe7; 8]));
        expect(&mut fixture, &new, other);
    }
}

#[test]
fn packets_for_a_dead_member_go_elsewhere_and_are_not_remembered() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        for state in [MemberState::Down, MemberState::Absent] {
            let [first, other] = members(is_v4);
            fixture.set_slot(slot(is_v4, vip::QUIC), Slot::owned_by(first, other));
            fixture.set_state(first, state);
            let id = id_of(first, LAYOUTS[1]);
            let open = packet(is_v4, vip::QUIC, Kind::Short.datagram(1, &id));
            // It has no such connection, and answers with a stateless reset.
            expect(&mut fixture, &open, other);
            assert!(nothing(&mut fixture));
            fixture.set_state(first, MemberState::Up);
            expect(&mut fixture, &open, first);
        }
    }
}

#[test]
fn an_id_leads_to_no_region_that_the_service_may_not_be_served_from() {
    let mut fixture = Fixture::new();
    fixture.change_service(v4(vip::QUIC), |service| service.regions = 1);
    fixture.change(2, |member| member.region = 1);
    let id = id_of(2, LAYOUTS[1]);
    let open = packet(true, vip::QUIC, Kind::Short.datagram(1, &id));
    expect(&mut fixture, &open, 1);
    fixture.change(1, |member| member.region = 1);
    let residency = Action::Drop(DropReason::Residency);
    assert_eq!(fixture.run(&open.bytes()).action, residency);
}

#[test]
fn ids_count_only_for_services_of_quic_that_have_them() {
    let mut fixture = Fixture::new();
    let id = id_of(2, LAYOUTS[1]);
    let datagram = Kind::Short.datagram(1, &id);
    expect(&mut fixture, &packet(true, vip::EXACT, datagram.clone()), 1);
    let tcp = TestPacket {
        payload: datagram.clone(),
        ..TestPacket::tcp(client(true), (v4(vip::QUIC), PORT), SYN)
    };
    expect(&mut fixture, &tcp, 1);
    let open = packet(true, vip::QUIC, datagram);
    expect(&mut fixture, &open, 2);
    fixture.set_cids(BTreeMap::new());
    expect(&mut fixture, &open, 1);
}

#[test]
fn new_flows_are_limited_and_open_ones_are_not() {
    let mut fixture = Fixture::new();
    fixture.change_service(v4(vip::QUIC), |service| {
        service.flow_interval = u32::MAX;
        service.flow_burst = 0;
    });
    let new = packet(true, vip::QUIC, Kind::Initial.datagram(1, &[0xe7; 8]));
    expect_once(&mut fixture, &new, 1);
    let limited = Action::Drop(DropReason::RateLimited);
    assert_eq!(fixture.run(&moved(&new).bytes()).action, limited);
    for id in [id_of(2, LAYOUTS[0]), vec![0xe7; 8]] {
        let open = packet(true, vip::QUIC, Kind::Short.datagram(1, &id));
        let member = if id.len() == 8 { 1 } else { 2 };
        expect_once(&mut fixture, &open, member);
    }
}

#[test]
fn errors_about_answers_reach_the_member_of_the_5_tuple() {
    let mut fixture = Fixture::new();
    let request = packet(true, vip::QUIC_NAT, Kind::Initial.datagram(1, &[0xe7; 8]));
    let port = nat::forward(&mut fixture, &request, 5);
    let answer = nat::answer(&request, 5, port, 0);
    let about = nat::returned(&answer, &request);
    let router = IpAddr::from(Ipv4Addr::new(203, 0, 113, 1));
    let error = |quoted: &TestPacket| {
        let addresses = [router, quoted.source];
        let message = icmp(addresses, [3, 4], 1400, &quoted.ip()[..28]);
        let mut frame = ethernet(request.macs, &[], true);
        frame.extend(ip_around(addresses, 60, 1, &message));
        frame
    };
    let ran = fixture.run(&error(&about));
    assert_eq!(ran.action, SENT);
    assert_eq!(ran.bytes[30..34], [10, 8, 0, 5]);
    let quoted = &ran.bytes[42..];
    assert_eq!(quoted[12..16], [10, 8, 0, 5]);
    assert_eq!(quoted[16..20], OUTER_V4.octets());
    assert_eq!(quoted[22..24], port.to_be_bytes());
    // The kernel may do anything with a packet nobody sent.
    let ran = fixture.run(&error(&TestPacket {
        destination_port: 5,
        ..about
    }));
    assert_eq!(ran.action, Action::Pass);
}

#[test]
fn fragments_go_by_the_5_tuple() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        for (vip, member) in [
            (vip::QUIC, members(is_v4)[0]),
            (vip::QUIC_NAT, nat_members(is_v4)[0]),
        ] {
            let id = id_of(member + 1, LAYOUTS[1]);
            let whole = TestPacket {
                fragment: 0,
                ..packet(is_v4, vip, Kind::Short.datagram(1, &id))
            };
            for part in whole.fragments(24) {
                let ran = fixture.run(&part);
                assert_eq!(ran.action, SENT);
                assert_eq!(ran.bytes[..12], macs_to(member).concat()[..]);
            }
        }
    }
}

#[test]
fn a_service_without_quic_has_no_use_for_its_flag_over_tcp() {
    let mut fixture = Fixture::new();
    let flags = service_flags::RESET_OPEN | service_flags::REJECT;
    fixture.set_flags(v4(vip::QUIC), flags);
    let id = id_of(2, LAYOUTS[1]);
    let open = packet(true, vip::QUIC, Kind::Short.datagram(1, &id));
    expect(&mut fixture, &open, 1);
}

/// Returns a random datagram for the differential test.
pub(crate) fn random(random: &mut StdRng) -> Vec<u8> {
    let kind = KINDS[random.random_range(0..KINDS.len())];
    let version = VERSIONS[random.random_range(0..VERSIONS.len())];
    let layout = LAYOUTS[random.random_range(0..LAYOUTS.len())];
    let id = match random.random_range(0..4) {
        0 => {
            let len = random.random_range(0..21);
            (0..len).map(|_| random.random()).collect()
        }
        _ => id_of(random.random_range(0..10), layout),
    };
    let mut datagram = kind.datagram(version, &id);
    if random.random_ratio(1, 4) {
        datagram.truncate(random.random_range(0..datagram.len()));
    }
    datagram
}

/// Returns whether a packet is a datagram, and possibly QUIC.
pub(crate) fn is_datagram(packet: &TestPacket) -> bool {
    matches!(packet.transport, Transport::Udp { .. })
}
