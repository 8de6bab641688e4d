//! Ports of mode `nat`: ownership, and exhaustion.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use steer_common::{
    Action,
    abi::{FlowKey, NatForward, NatReverse, nat_state},
    verdict::DropReason,
};
use steer_dataplane::now_ticks;
use steer_tests::packet::{ACK, RST, SYN, TestPacket};

use crate::{
    fixture::{Fixture, OUTER_V4, PORT, backend, v4, vip},
    lifetime::{ONLY_PORT, age, assure, other, with_one_port},
    nat::{answer, back, forward, tcp, udp},
};

const EXHAUSTED: Action = Action::Drop(DropReason::NatPortsExhausted);
const FULL: Action = Action::Drop(DropReason::FlowTableFull);
const FIRST_PORT: u16 = 30_000;
const PORTS: u16 = 1000;

/// Returns the SYN of another client.
fn syn(number: u16) -> TestPacket {
    TestPacket {
        source_port: 1000 + number,
        ..tcp(true, SYN)
    }
}

/// Pins the thread, and so its test runs, to one CPU: each has a ring of its own.
fn stay_on_one_cpu() {
    // SAFETY: plain data, of which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: asks for nothing but a number.
    let cpu = unsafe { libc::sched_getcpu() };
    // SAFETY: a set of its own, of the size that is said.
    unsafe {
        libc::CPU_SET(cpu as usize, &mut set);
        assert_eq!(
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set),
            0
        );
    }
}

#[test]
fn a_flow_on_which_only_the_client_talks_keeps_its_port() {
    let mut fixture = with_one_port();
    let idle = now_ticks().wrapping_sub(55_000);
    let first = udp(true);
    assert_eq!(forward(&mut fixture, &first, 5), ONLY_PORT);
    age(&mut fixture, &first, |forward, reverse| {
        forward.state = nat_state::ASSURED;
        reverse.last_ticks = idle;
    });
    let second = other(udp(true));
    assert_eq!(fixture.run(&second.bytes()).action, EXHAUSTED);
    assert_eq!(forward(&mut fixture, &first, 5), ONLY_PORT);
    // Once it is idle the port belongs to another flow, and the client cannot use it.
    age(&mut fixture, &first, |forward, reverse| {
        forward.last_ticks = idle;
        reverse.last_ticks = idle;
    });
    assert_eq!(forward(&mut fixture, &second, 5), ONLY_PORT);
    assure(&mut fixture, &second);
    assert_eq!(fixture.run(&first.bytes()).action, EXHAUSTED);
    back(&mut fixture, &answer(&second, 5, ONLY_PORT, ACK), &second);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_those_that_there_are() {
    const ROOM: u16 = 64;
    let mut fixture = Fixture::with_flows(u32::from(ROOM));
    // However slow the machine is, a repeated SYN does not count as a retry.
    fixture.configure(|config| config.nat_retry_ticks = 60_000);
    fixture.host.nat_flows.set(usize::from(ROOM));
    let ports: Vec<_> = (0..ROOM)
        .map(|number| forward(&mut fixture, &syn(number), 5))
        .collect();
    for number in ROOM..ROOM + 3 {
        assert_eq!(fixture.run(&syn(number).bytes()).action, FULL);
    }
    for (number, port) in (0..).zip(&ports) {
        assert_eq!(forward(&mut fixture, &syn(number), 5), *port);
        let answer = answer(&syn(number), 5, *port, SYN | ACK);
        back(&mut fixture, &answer, &syn(number));
    }
    let entries = fixture.xdp.maps().nat_entries().unwrap();
    assert_eq!(entries, [usize::from(ROOM); 2]);
}

#[test]
fn flows_that_only_began_make_room_for_newer_ones() {
    stay_on_one_cpu();
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_unassured_max = 3);
    // A flow that continues after an answer stays.
    let open = syn(0);
    let port = forward(&mut fixture, &open, 5);
    back(&mut fixture, &answer(&open, 5, port, SYN | ACK), &open);
    let ack = TestPacket {
        source_port: open.source_port,
        ..tcp(true, ACK)
    };
    forward(&mut fixture, &ack, 5);
    let mut ports = Vec::new();
    for number in 1..=9 {
        ports.push(forward(&mut fixture, &syn(number), 5));
        let entries = fixture.xdp.maps().nat_entries().unwrap();
        assert_eq!(entries, [usize::from(number).min(3) + 1; 2]);
    }
    assert_eq!(forward(&mut fixture, &ack, 5), port);
    for (number, port) in (1..).zip(&ports) {
        let reply = answer(&syn(number), 5, *port, SYN | ACK);
        if number <= 6 {
            assert_eq!(fixture.run(&reply.bytes()).action, Action::Pass, "{number}");
        } else {
            back(&mut fixture, &reply, &syn(number));
        }
    }
}

#[test]
fn a_port_rests_after_its_connection_while_there_are_others() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_port_count = 3);
    let first = syn(0);
    let port = forward(&mut fixture, &first, 5);
    back(&mut fixture, &answer(&first, 5, port, SYN | ACK), &first);
    let reset = TestPacket {
        source_port: first.source_port,
        ..tcp(true, RST)
    };
    forward(&mut fixture, &reset, 5);
    // The same client again, and another one: a backend in TIME_WAIT sees neither.
    let mut others = [
        forward(&mut fixture, &first, 5),
        forward(&mut fixture, &syn(1), 5),
    ];
    others.sort_unstable();
    assert!(
        !others.contains(&port) && others[0] != others[1],
        "{port} {others:?}"
    );
    // Late packets of the previous connection do not end the client's current one.
    fixture.run(&answer(&first, 5, port, RST).bytes());
    let ports = [port, others[0], others[1]];
    assert!(
        ports.contains(&forward(&mut fixture, &syn(2), 5)),
        "no other is left"
    );
}

#[test]
fn a_flood_of_datagrams_holds_no_port() {
    // Whether a port can be reclaimed depends on its age from one second on, and the host's clock is a little
    // later than the kernel's.
    let in_time = (0..20).any(|_| flood_of_datagrams(Duration::from_millis(700)));
    assert!(in_time, "200 packets took too long each time");
}

/// Returns false if the flood took longer than the limit, and was given up.
fn flood_of_datagrams(limit: Duration) -> bool {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_port_count = 16);
    let begin = Instant::now();
    let datagram = |number: u16| TestPacket {
        source_port: 1000 + number,
        ..udp(true)
    };
    let open = datagram(0);
    let port = forward(&mut fixture, &open, 5);
    back(&mut fixture, &answer(&open, 5, port, ACK), &open);
    forward(&mut fixture, &open, 5);
    for number in 1..200 {
        if begin.elapsed() > limit {
            return false;
        }
        let found = forward(&mut fixture, &datagram(number), 5);
        assert_ne!(found, port, "the port of a flow that goes on");
    }
    assert_eq!(forward(&mut fixture, &open, 5), port);
    fixture.check_counters();
    true
}

/// Fills ports of member 5 with flows of a given age.
fn occupy(fixture: &mut Fixture, ports: impl Iterator<Item = u16>, idle: u32) {
    let last_ms = now_ticks().wrapping_sub(idle);
    for port in ports {
        let key = FlowKey {
            source: Ipv4Addr::new(192, 0, 2, 99).into(),
            destination: v4(vip::NAT).into(),
            source_port: port,
            destination_port: PORT,
            protocol: 6,
            family: 4,
            member: 0,
        };
        let forward = NatForward {
            source: OUTER_V4.into(),
            source_port: port,
            backend: backend(5).into(),
            backend_port: PORT,
            member: 5,
            state: nat_state::ASSURED,
            peer_state: nat_state::ANSWERED,
            last_ticks: last_ms,
            ..NatForward::default()
        };
        let reverse = NatReverse {
            client: key.source,
            client_port: port,
            vip: key.destination,
            vip_port: PORT,
            member: 5,
            state: nat_state::ANSWERED,
            peer_state: nat_state::ASSURED,
            last_ticks: last_ms,
            ..NatReverse::default()
        };
        let reverse_key = forward.reverse_key(&key);
        let maps = fixture.xdp.maps();
        maps.add_nat_flow(&key, &forward, &reverse_key, &reverse)
            .unwrap();
        fixture.host.forward.borrow_mut().insert(key, forward);
        let mut host = fixture.host.reverse.borrow_mut();
        host.insert(reverse_key, reverse);
    }
}

#[test]
fn with_nine_in_ten_ports_taken_less_than_a_flow_in_a_hundred_is_refused() {
    const FLOWS: u16 = 1000;
    let mut fixture = Fixture::new();
    let taken = (0..PORTS).filter(|port| port % 10 != 3);
    occupy(&mut fixture, taken.map(|port| FIRST_PORT + port), 0);
    let mut refused = 0;
    for number in 0..FLOWS {
        let syn = syn(number);
        let ran = fixture.run(&syn.bytes());
        if ran.action == EXHAUSTED {
            refused += 1;
            continue;
        }
        let port = u16::from_be_bytes([ran.bytes[34], ran.bytes[35]]);
        assert_eq!(port % 10, 3, "a port that another flow has");
        // It ends, so that as many ports are left for the next one.
        let key = FlowKey {
            source: syn.source.into(),
            destination: syn.destination.into(),
            source_port: syn.source_port,
            destination_port: PORT,
            protocol: 6,
            family: 4,
            member: 0,
        };
        let forward = fixture.host.forward.borrow_mut().remove(&key).unwrap();
        let reverse = forward.reverse_key(&key);
        fixture.host.reverse.borrow_mut().remove(&reverse);
        fixture.xdp.maps().evict(Some(&key), Some(&reverse));
    }
    assert!(refused < FLOWS / 100, "{refused} of {FLOWS}");
}

#[test]
fn ports_of_flows_that_are_gone_are_as_good_as_free() {
    let mut fixture = Fixture::new();
    let all = FIRST_PORT..FIRST_PORT + PORTS;
    occupy(&mut fixture, all.clone(), 61_000);
    for number in 0..50 {
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 50));
        let syn = TestPacket {
            source,
            ..syn(number)
        };
        forward(&mut fixture, &syn, 5);
    }
    // If none has expired, no port is found, and that is the reason given.
    occupy(&mut fixture, all, 0);
    assert_eq!(fixture.run(&syn(999).bytes()).action, EXHAUSTED);
    let entries = fixture.xdp.maps().nat_entries().unwrap();
    assert!(entries[1] <= usize::from(PORTS), "{entries:?}");
}
