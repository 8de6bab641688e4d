//! Test fixture: one set of tables, in the kernel and in host memory.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::programs::{TestRun as _, TestRunOptions};
use steer::explain::{self, PacketOutcome, PacketQuestion};
use steer_common::{
    Action,
    abi::{
        CidCipher, CidKey, CidLayouts, Config, Family, LatencyBuckets, Macs, Member, MemberState,
        Mode, NatTimeouts, Service, ServiceKey, Slot, SourceLimit, member_flags, nat_flags,
        service_flags,
    },
    cid::Layout,
    frame::Buffer,
    process,
    verdict::DropReason,
};
use steer_core::dataplane::{Class, SnapshotTables, SteeringTables as _, TrafficCounters as _};
use steer_dataplane::{Sizes, copy_local_addresses, now_coarse_ns, now_ticks};
use steer_tests::packet::NODE_MAC;

use crate::pool::Lease;

/// Test runs use the loopback device.
const INTERFACE: u32 = 1;
/// Reasons for which a packet is answered.
const ANSWERED: [DropReason; 3] = [
    DropReason::Reset,
    DropReason::TooBig,
    DropReason::TtlExpired,
];
/// Headroom as in drivers.
const HEADROOM: usize = 256;

pub(crate) const OUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
pub(crate) const OUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const SEED: u64 = 99;
pub(crate) const PORT: u16 = 80;

/// Services by the last part of their VIP; each has one slot, with the same number.
pub(crate) mod vip {
    pub(crate) const EXACT: u8 = 1;
    pub(crate) const ANY: u8 = 2;
    pub(crate) const NAT: u8 = 3;
    pub(crate) const EMPTY_DROP: u8 = 4;
    pub(crate) const EMPTY_REJECT: u8 = 5;
    pub(crate) const CROSS: u8 = 6;
    pub(crate) const RESTEER: u8 = 7;
    pub(crate) const UNKNOWN: u8 = 9;
    pub(crate) const QUIC: u8 = 10;
    pub(crate) const QUIC_NAT: u8 = 11;
    pub(crate) const KNOWN: [u8; 10] = [1, 2, 3, 4, 5, 6, 7, 8, QUIC, QUIC_NAT];
}

/// Returns the IPv4 VIP of a service.
pub(crate) fn v4(vip: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, vip).into()
}

/// Returns the IPv6 VIP of a service.
pub(crate) fn v6(vip: u8) -> IpAddr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(vip)).into()
}

pub(crate) fn client(v4: bool) -> (IpAddr, u16) {
    if v4 {
        (Ipv4Addr::new(192, 0, 2, 7).into(), 40_000)
    } else {
        (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
            40_000,
        )
    }
}

/// Offset of the slots of IPv6 services.
pub(crate) const V6_SLOTS: u32 = 16;

/// Returns the address of a member. Members 1 and 2 are `ipip` over IPv4, 3 and 4 over IPv6; 5 and
/// 6 `nat` over IPv4, 7 and 8 over IPv6, of which the even ones have port 8080.
pub(crate) fn backend(id: u16) -> IpAddr {
    let last = id as u8;
    match id {
        3 | 4 | 7 | 8 => Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id).into(),
        _ => Ipv4Addr::new(10, 8, 0, last).into(),
    }
}

/// Rotations of connection ids in use, with the lengths of server id and nonce.
pub(crate) const LAYOUTS: [(u8, usize, usize); 2] = [(0, 1, 4), (5, 4, 7)];

/// Rotations of connection ids that can be encrypted, with the lengths of server id and nonce:
/// single-pass, and four-pass, of which decryption needs three, three and four.
pub(crate) const ENCRYPTED: [(u8, usize, usize); 4] = [(1, 8, 8), (2, 3, 4), (3, 4, 14), (4, 8, 5)];

/// Returns the server id of a backend, which contains the number of its member.
pub(crate) fn server_id(member: u16, len: usize) -> Vec<u8> {
    let mut id = vec![0xa0; len];
    id[len - 1] = member as u8;
    id
}

/// Returns the MAC addresses of frames to a member.
pub(crate) fn macs_to(id: u16) -> [[u8; 6]; 2] {
    [[2, 0xb, 0, 0, 0, id as u8], NODE_MAC]
}

/// Result of a packet, on which kernel and host agree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) action: Action,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Fixture {
    pub(crate) xdp: Lease,
    pub(crate) host: SnapshotTables,
    services: Vec<Service>,
    pub(crate) classes: Vec<Class>,
    /// Limits of sources, which services and classes reference by index from 1.
    pub(crate) limits: Vec<SourceLimit>,
    dropped: HashMap<DropReason, u64>,
    /// Whether each packet is checked with `steer explain` first, which copies all tables each
    /// time.
    pub(crate) explains: bool,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_flows(4096)
    }

    /// Creates a fixture with a capacity for flows.
    pub(crate) fn with_flows(flows: u32) -> Self {
        let mut xdp = Lease::take(Sizes::of_each(flows));
        let maps = xdp.maps();
        maps.set_config(&Config {
            nat_v4: 1,
            nat_v6: 1,
            flow_seed: SEED,
            outer_v4: OUTER_V4.into(),
            outer_v6: OUTER_V6.into(),
            gue_port: 6080,
            nat_port_first: 30_000,
            nat_port_count: 1000,
            nat_timeouts: NatTimeouts {
                idle_ticks: 60_000,
                udp_idle_ticks: 50_000,
                unassured_ticks: 30_000,
                udp_unassured_ticks: 10_000,
                closed_ticks: 10_000,
            },
            burst_gap_us: 2000,
            nat_retry_ticks: 500,
            nat_flags: nat_flags::VERIFIES_CHECKSUMS | nat_flags::CHECKS_VLAN,
            nat_port_seed: SEED + 1,
            cids: layouts(),
            ..Config::default()
        });
        maps.set_nat_sources(&[OUTER_V4.into(), OUTER_V6.into()])
            .unwrap();
        for id in 1..=8 {
            maps.set_member(id, &member(id));
        }
        maps.set_latency_members(&[5, 6, 7, 8]).unwrap();
        let services = services();
        maps.publish(&services).unwrap();
        for (slot, members) in slots() {
            maps.write_slots(slot, &[Slot::owned_by(members[0], members[1])]);
        }
        maps.set_cids(&cids(&LAYOUTS)).unwrap();
        let host = SnapshotTables::new(maps.snapshot());
        let measured = (5..=8).map(|id| (id, LatencyBuckets::default()));
        host.measured.borrow_mut().extend(measured);
        copy_local_addresses(&host, INTERFACE);
        Self {
            xdp,
            host,
            services,
            classes: Vec::new(),
            limits: Vec::new(),
            dropped: HashMap::new(),
            explains: false,
        }
    }

    pub(crate) fn set_slot(&mut self, index: u32, slot: Slot) {
        self.xdp.maps().write_slots(index, &[slot]);
        self.host.set_slot(index, slot);
    }

    pub(crate) fn slot(&mut self, index: u32) -> Slot {
        let slot = self.xdp.maps().slots(index..index + 1)[0];
        assert_eq!(self.host.current_slot(index), Some(slot), "slot {index}");
        slot
    }

    pub(crate) fn set_state(&mut self, id: u16, state: MemberState) {
        self.change(id, |member| member.state = state as u8);
    }

    pub(crate) fn change(&mut self, id: u16, change: impl FnOnce(&mut Member)) {
        let mut member = self.xdp.maps().member(id);
        change(&mut member);
        self.xdp.maps().set_member(id, &member);
        self.host.snapshot_mut().members[usize::from(id)] = member;
    }

    /// Changes settings, including the host's copy.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.xdp.maps().config();
        change(&mut config);
        self.xdp.maps().set_config(&config);
        self.host.snapshot_mut().config = self.xdp.maps().config();
    }

    /// Disables all timeouts: kernel and host read the clock one after the other, and an end in
    /// between would be decided differently.
    pub(crate) fn stop_the_clock(&mut self) {
        const NEVER: u32 = u32::MAX / 4;
        self.configure(|config| {
            config.nat_retry_ticks = u32::MAX;
            config.nat_timeouts = NatTimeouts {
                idle_ticks: NEVER,
                udp_idle_ticks: NEVER,
                unassured_ticks: NEVER,
                udp_unassured_ticks: NEVER,
                closed_ticks: NEVER,
            };
        });
    }

    /// Changes the flags of a service.
    pub(crate) fn set_flags(&mut self, vip: IpAddr, flags: u32) {
        self.change_service(vip, |service| service.flags = flags);
    }

    /// Changes a service, for all its protocols.
    pub(crate) fn change_service(&mut self, vip: IpAddr, change: impl Fn(&mut Service)) {
        for service in &mut self.services {
            if service.key.address == vip.into() && service.key.protocol != 0 {
                change(service);
            }
        }
        self.publish();
    }

    /// Replaces the classes of services.
    pub(crate) fn set_classes(&mut self, classes: Vec<Class>) {
        self.classes = classes;
        self.publish();
    }

    fn publish(&mut self) {
        let maps = self.xdp.maps();
        maps.publish_with(&self.services, &self.classes, &self.limits)
            .unwrap();
        self.copy();
    }

    /// Copies the daemon's part of the maps to the host's tables.
    pub(crate) fn copy(&mut self) {
        let snapshot = self.xdp.maps().snapshot();
        let host = self.host.snapshot_mut();
        host.config = snapshot.config;
        host.services = snapshot.services;
        host.displacements = snapshot.displacements;
        host.policies = snapshot.policies;
        host.classes = snapshot.classes;
        host.dscp_tables = snapshot.dscp_tables;
        host.limits = snapshot.limits;
        host.icmp_sources = snapshot.icmp_sources;
        host.node_macs = snapshot.node_macs;
        host.interfaces = snapshot.interfaces;
        host.routers = snapshot.routers;
    }

    /// Returns a service as configured.
    pub(crate) fn service(&self, vip: IpAddr, protocol: u8) -> Service {
        let of = |s: &&Service| s.key.address == vip.into() && s.key.protocol == protocol;
        *self.services.iter().find(of).unwrap()
    }

    /// Replaces the known server ids.
    pub(crate) fn set_cids(&mut self, cids: BTreeMap<CidKey, u16>) {
        self.xdp.maps().set_cids(&cids).unwrap();
        assert_eq!(self.xdp.maps().cids(), cids);
        self.host.snapshot_mut().cids = cids;
    }

    /// Enables decryption of connection ids of [`ENCRYPTED`] with this key.
    pub(crate) fn decrypt_ids(&mut self, key: &[u8; 16]) {
        let mut ciphers = [CidCipher::default(); 8];
        let mut all = layouts();
        for (rotation, id, nonce) in ENCRYPTED {
            ciphers[usize::from(rotation)] = CidCipher::new(key, Layout::new(id, nonce).unwrap());
            all = all.with_encryption(rotation);
        }
        self.xdp.maps().set_cid_ciphers(&ciphers);
        self.host.snapshot_mut().cid_ciphers = ciphers;
        self.configure(|config| config.cids = all);
        self.set_cids(cids(&[&LAYOUTS[..], &ENCRYPTED].concat()));
    }

    /// Denies clients.
    pub(crate) fn deny(&mut self, denied: &[(IpAddr, u8)]) {
        self.xdp.maps().set_denied(denied).unwrap();
        self.configure(|config| config.denies = u32::from(!denied.is_empty()));
        self.host.snapshot_mut().denied = self.xdp.maps().snapshot().denied;
    }

    /// Runs a frame through the program and through the host's build, which must agree completely.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Ran {
        let explained = self.explained(frame);
        let drops_before = self.xdp.maps().counters().unwrap().drops;
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.xdp.program().unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let drops = self.xdp.maps().counters().unwrap().drops;
        let action = match result.return_value {
            1 => Action::Drop(reason(&drops_before, &drops)),
            2 => Action::Pass,
            3 => Action::Transmit(INTERFACE),
            other => panic!("the program returned {other}"),
        };
        if let Some(fate) = explained {
            assert_eq!(fate.action, action, "explain and the kernel disagree");
            if !matches!(action, Action::Drop(_)) {
                assert_eq!(
                    hex(&fate.bytes),
                    hex(&out),
                    "explain and the kernel disagree"
                );
            }
        }
        let answered_before = ANSWERED.map(|reason| self.answered(reason));

        let mut memory = vec![0; HEADROOM];
        memory.extend(frame);
        let mut buffer = Buffer::new(&mut memory, HEADROOM);
        self.host.now_ms.set(now_ticks());
        self.host.now_ns.set(u64::from(now_ticks()) << 20);
        self.host.now_fine.set(now_coarse_ns());
        let host = process(&mut buffer, INTERFACE, &self.host).action();
        assert_eq!(host, action, "host and kernel decide differently");
        if !matches!(action, Action::Drop(_)) {
            // Only answers in place of a packet count as drops as well, and the host tells which
            // ones are.
            let mut expected = drops_before;
            for (reason, before) in ANSWERED.into_iter().zip(answered_before) {
                expected[reason as usize] += self.answered(reason) - before;
            }
            assert_eq!(expected, drops, "a drop was counted but not made");
        }
        if !matches!(action, Action::Drop(_)) {
            assert_eq!(
                hex(buffer.bytes()),
                hex(&out),
                "host and kernel write differently"
            );
        }
        Ran { action, bytes: out }
    }

    /// Returns the prediction of `steer explain` for a frame, if enabled.
    fn explained(&mut self, frame: &[u8]) -> Option<PacketOutcome> {
        if !self.explains {
            return None;
        }
        let question = PacketQuestion {
            bytes: frame.to_vec(),
            interface: INTERFACE,
        };
        let fate = explain::fate(self.xdp.maps(), &question);
        // The kernel's routing is not queried.
        (fate.action != Action::Drop(DropReason::NoRoute)).then_some(fate)
    }

    /// Works like [`Self::run`], for many packets: counters are only summed up, for
    /// [`Self::check_drops`].
    pub(crate) fn run_quickly(&mut self, frame: &[u8]) {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.xdp.program().unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let mut memory = vec![0; HEADROOM];
        memory.extend(frame);
        let mut buffer = Buffer::new(&mut memory, HEADROOM);
        self.host.now_ms.set(now_ticks());
        self.host.now_ns.set(u64::from(now_ticks()) << 20);
        self.host.now_fine.set(now_coarse_ns());
        let host = process(&mut buffer, INTERFACE, &self.host).action();
        let code = match host {
            Action::Drop(reason) => {
                *self.dropped.entry(reason).or_default() += 1;
                1
            }
            Action::Pass => 2,
            Action::Transmit(_) => 3,
        };
        assert_eq!(result.return_value, code, "the host says {host:?}");
        if code != 1 {
            assert_eq!(buffer.bytes(), out, "written differently");
        }
    }

    /// Compares the drop counters with the drops of the host's build.
    pub(crate) fn check_drops(&mut self) {
        let counted = self.xdp.maps().counters().unwrap().drops;
        for reason in DropReason::ALL {
            let dropped = self.dropped.get(&reason).copied().unwrap_or(0);
            let expected = dropped + self.answered(reason);
            assert_eq!(counted[reason as usize], expected, "{reason:?}");
        }
    }

    /// Returns the number of packets that the host's build has answered for this reason.
    pub(crate) fn answered(&self, reason: DropReason) -> u64 {
        let drops = self.host.drops.borrow();
        drops.get(&reason).copied().unwrap_or(0)
    }

    /// Sheds new flows of a service or class with a priority below this.
    pub(crate) fn set_pressure(&mut self, id: u16, pressure: u32) {
        self.xdp.maps().set_pressure(id, pressure);
        let mut admission = self.host.admission.borrow_mut();
        admission.entry(id).or_default().pressure = pressure;
    }

    /// Returns the flows in flight of a member.
    pub(crate) fn in_flight(&mut self, id: u16) -> i64 {
        let kernel = self.xdp.maps().in_flight(id);
        let host = self.host.in_flight.borrow().get(&id).copied();
        assert_eq!(kernel, host.unwrap_or(0), "member {id}");
        kernel
    }

    /// Compares the counters of refused flows, and returns the one for a reason.
    pub(crate) fn refused(&mut self, id: u16, reason: DropReason) -> u64 {
        let kernel = self.xdp.maps().counters().unwrap().admission_drops[&id];
        let host = self.host.refused.borrow();
        let host = host.get(&id).copied().unwrap_or_default();
        assert_eq!(kernel, host, "number {id}");
        let mut counts = kernel.counts();
        counts.find(|(counted, _)| *counted == reason).unwrap().1
    }

    /// Compares the counters of members.
    pub(crate) fn check_counters(&mut self) {
        let kernel = self.xdp.maps().counters().unwrap().members;
        let host = self.host.counters.borrow();
        for id in 1..=8_u16 {
            let host = host.get(&id).copied().unwrap_or_default();
            assert_eq!(kernel[usize::from(id)], host, "member {id}");
        }
    }
}

fn reason(before: &[u64], after: &[u64]) -> DropReason {
    let mut found = DropReason::ALL
        .into_iter()
        .filter(|reason| after[*reason as usize] != before[*reason as usize]);
    let reason = found.next().expect("a drop without a reason");
    assert_eq!(found.next(), None, "two reasons for one packet");
    reason
}

/// Formats bytes in rows that can be compared by eye.
pub(crate) fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(16).map(|row| format!("{row:02x?}")).collect()
}

fn member(id: u16) -> Member {
    let [next_hop, own] = macs_to(id);
    let mode = if id <= 4 { Mode::Ipip } else { Mode::Nat };
    Member {
        address: backend(id).into(),
        macs: Macs::new(next_hop, own),
        interface: INTERFACE,
        reply_interfaces: [INTERFACE; 2],
        state: MemberState::Up as u8,
        flags: member_flags::RESOLVED,
        mode: mode as u8,
        family: Family::of_ip(&backend(id)) as u8,
        port: if id > 4 && id.is_multiple_of(2) {
            8080
        } else {
            0
        },
        ..Member::default()
    }
}

fn service(address: IpAddr, port: u16, protocol: u8, slot: u32, flags: u32) -> Service {
    let id = slot as u16;
    Service {
        key: ServiceKey {
            address: address.into(),
            port,
            protocol,
            family: Family::of_ip(&address) as u8,
            class: 0,
        },
        slots_start: slot,
        slots_len: 1,
        regions: u64::MAX,
        flags,
        id,
        ..Service::default()
    }
}

const fn quic(protocol: u8) -> u32 {
    if protocol == 17 {
        service_flags::QUIC
    } else {
        0
    }
}

fn layouts() -> CidLayouts {
    let layouts = LAYOUTS.iter();
    layouts.fold(CidLayouts::default(), |all, (rotation, id, nonce)| {
        all.with(*rotation, Layout::new(*id, *nonce))
    })
}

/// Returns the server ids of the members of QUIC services.
fn cids(layouts: &[(u8, usize, usize)]) -> BTreeMap<CidKey, u16> {
    let mut cids = BTreeMap::new();
    for (vip, first, members) in [
        (vip::QUIC, 0, 1..=2),
        (vip::QUIC, V6_SLOTS, 3..=4),
        (vip::QUIC_NAT, 0, 5..=6),
        (vip::QUIC_NAT, V6_SLOTS, 7..=8),
    ] {
        for member in members {
            for &(rotation, len, _) in layouts {
                let id = server_id(member, len);
                let key = CidKey {
                    server_id: id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)),
                    service: first as u16 + u16::from(vip),
                    rotation,
                    server_id_len: len as u8,
                    _pad: 0,
                };
                cids.insert(key, member);
            }
        }
    }
    cids
}

fn services() -> Vec<Service> {
    let usual = service_flags::RESET_OPEN | service_flags::REJECT;
    let mut services = Vec::new();
    for (address, first) in [(v4 as fn(u8) -> IpAddr, 0), (v6, V6_SLOTS)] {
        for protocol in [6, 17] {
            for (vip, port, flags) in [
                (vip::EXACT, PORT, usual),
                (vip::ANY, 0, usual),
                (vip::NAT, PORT, usual | service_flags::HAS_NAT),
                (vip::CROSS, PORT, usual),
                (vip::RESTEER, PORT, 0),
                (vip::QUIC, PORT, usual | quic(protocol)),
                (
                    vip::QUIC_NAT,
                    PORT,
                    usual | quic(protocol) | service_flags::HAS_NAT,
                ),
            ] {
                let slot = first + u32::from(vip);
                services.push(service(address(vip), port, protocol, slot, flags));
            }
            for (vip, flags) in [(vip::EMPTY_DROP, 0), (vip::EMPTY_REJECT, usual)] {
                services.push(Service {
                    slots_len: 0,
                    ..service(address(vip), PORT, protocol, 0, flags)
                });
            }
        }
    }
    let vips = vip::KNOWN.into_iter().flat_map(|last| [v4(last), v6(last)]);
    for address in vips.chain([OUTER_V4.into(), OUTER_V6.into()]) {
        let flags =
            service_flags::ADDRESS | service_flags::ADDRESS_TCP | service_flags::ADDRESS_UDP;
        services.push(service(address, 0, 0, 0, flags));
    }
    for outer in [IpAddr::from(OUTER_V4), OUTER_V6.into()] {
        for protocol in [6, 17] {
            services.push(service(outer, 0, protocol, 0, service_flags::NAT_SOURCE));
        }
    }
    services
}

fn slots() -> Vec<(u32, [u16; 2])> {
    let mut slots = Vec::new();
    for vip in [vip::EXACT, vip::ANY, vip::RESTEER, vip::QUIC] {
        slots.push((u32::from(vip), [1, 2]));
        slots.push((V6_SLOTS + u32::from(vip), [3, 4]));
    }
    for vip in [vip::NAT, vip::QUIC_NAT] {
        slots.push((u32::from(vip), [5, 6]));
        slots.push((V6_SLOTS + u32::from(vip), [7, 8]));
    }
    slots.push((u32::from(vip::CROSS), [3, 4]));
    slots.push((V6_SLOTS + u32::from(vip::CROSS), [1, 2]));
    slots
}
