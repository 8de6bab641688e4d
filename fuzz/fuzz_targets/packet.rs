//! Frames through the whole data path, over tables with services of each kind.
#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::OnceLock,
};

use libfuzzer_sys::fuzz_target;
use steer_common::{
    Action,
    abi::{
        Family, Macs, Member, MemberState, Mode, NatTimeouts, Service, ServiceKey, Slot,
        member_flags, service_flags,
    },
    cid::Layout,
    decap::decap,
    frame::Buffer,
    process,
};
use steer_core::dataplane::{FakeDataplane, Snapshot, SnapshotTables, SteeringTables as _};

const INTERFACE: u32 = 1;
const HEADROOM: usize = 256;
const GUE_PORT: u16 = 6080;
/// Number of members, including 0.
const MEMBERS: u16 = 6;

fuzz_target!(|bytes: &[u8]| {
    let tables = SnapshotTables::new(snapshot().clone());
    tables.now_ms.set(1000);
    tables.now_ns.set(1000 << 20);
    tables.now_fine.set(1000 << 20);
    // The second packet of a flow meets the state left by the first one.
    for _ in 0..2 {
        let mut memory = vec![0; HEADROOM];
        memory.extend(bytes);
        let mut frame = Buffer::new(&mut memory, HEADROOM);
        match process(&mut frame, INTERFACE, &tables).action() {
            Action::Pass => assert_eq!(frame.bytes(), bytes, "what is passed is untouched"),
            Action::Transmit(_) => assert!(frame.bytes().len() <= bytes.len() + HEADROOM),
            Action::Drop(_) => {}
        }
    }
    let mut copy = bytes.to_vec();
    decap(&mut Buffer::new(&mut copy, 0), GUE_PORT, |_| true);
});

fn snapshot() -> &'static Snapshot {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let mut snapshot = tables().snapshot();
        // Copied for each input.
        snapshot.members.truncate(usize::from(MEMBERS));
        snapshot.slots.truncate(usize::from(MEMBERS));
        snapshot
    })
}

/// Creates services 10.99.0.n and fd99::n, each with a slot for member n: `ipip` over IPv4 and
/// IPv6, `gue`, `nat`, `l2`; UDP services are QUIC.
fn tables() -> FakeDataplane {
    let mut memory = FakeDataplane::new();
    let mut config = memory.config();
    config.outer_v4 = Ipv4Addr::new(10, 98, 0, 1).into();
    config.outer_v6 = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1).into();
    config.gue_port = GUE_PORT;
    config.nat_v4 = 1;
    config.nat_v6 = 1;
    config.nat_port_first = 30_000;
    config.nat_port_count = 1000;
    config.nat_timeouts = NatTimeouts {
        idle_ticks: 60_000,
        udp_idle_ticks: 60_000,
        unassured_ticks: 30_000,
        udp_unassured_ticks: 30_000,
        closed_ticks: 10_000,
    };
    config.burst_gap_us = 2000;
    config.cids = config.cids.with(0, Layout::new(1, 4));
    memory.set_config(&config);
    let modes = [Mode::Ipip, Mode::Ipip, Mode::Gue, Mode::Nat, Mode::L2];
    let mut services = Vec::new();
    for (id, mode) in (1..MEMBERS).zip(modes) {
        let last = id as u8;
        let address: IpAddr = if id == 2 {
            Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id).into()
        } else {
            Ipv4Addr::new(10, 8, 0, last).into()
        };
        memory.set_member(
            id,
            &Member {
                address: address.into(),
                macs: Macs::new([2, 0, 0, 0, 1, last], [2, 0, 0, 0, 0, 1]),
                interface: INTERFACE,
                state: MemberState::Up as u8,
                flags: member_flags::RESOLVED,
                mode: mode as u8,
                family: Family::of_ip(&address) as u8,
                mtu: 1500,
                port: 8080,
                ..Member::default()
            },
        );
        memory.write_slots(u32::from(id), &[Slot::owned_by(id, id)]);
        let vips: [IpAddr; 2] = [
            Ipv4Addr::new(10, 99, 0, last).into(),
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, id).into(),
        ];
        for (vip, protocol) in vips.into_iter().flat_map(|vip| [(vip, 6), (vip, 17)]) {
            let quic = if protocol == 17 {
                service_flags::QUIC
            } else {
                0
            };
            let nat = if mode == Mode::Nat {
                service_flags::HAS_NAT
            } else {
                0
            };
            services.push(Service {
                key: ServiceKey {
                    address: vip.into(),
                    port: 443,
                    protocol,
                    family: Family::of_ip(&vip) as u8,
                    class: 0,
                },
                id: services.len() as u16,
                slots_start: u32::from(id),
                slots_len: 1,
                regions: u64::MAX,
                flags: quic | nat | service_flags::RESET_OPEN,
                ..Service::default()
            });
        }
    }
    memory.publish(&services).expect("they are few");
    memory
}
