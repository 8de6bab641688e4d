//! The packets that are measured, and the tables that they meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use steer_common::abi::{
    Address, Back, Config, Family, FlowEntry, FlowKey, Macs, Member, MemberState, Mode, NatForward,
    NatReverse, Service, ServiceKey, Slot, bench::WORDS, member_flags, nat_state, service_flags,
};
use steer_user::{
    dataplane::{Dataplane, KernelMaps, now_ms},
    domain::maglev::{self, Weighted},
};

/// Length of each packet: the smallest that holds the headers.
pub(crate) const LEN: usize = WORDS * 8;

const IPIP_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NAT_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const GUE_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);
const L2_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 5);
const LIMITED_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 6);
const MOVING_VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
const V6_VIP: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const PORT: u16 = 443;
const MEMBERS: u16 = 100;
const NAT_MEMBER: u16 = MEMBERS + 1;
const GUE_MEMBER: u16 = MEMBERS + 2;
const L2_MEMBER: u16 = MEMBERS + 3;
/// The first member that is reached over IPv6.
const V6_MEMBERS: u16 = MEMBERS + 4;
const LAST_MEMBER: u16 = V6_MEMBERS + MEMBERS - 1;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// What a packet is and what has to become of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) name: &'static str,
    pub(crate) destination: IpAddr,
    pub(crate) flags: u8,
    /// Bytes that the packet grows by.
    pub(crate) growth: u32,
    /// Offset of a word, and whether the program changes it.
    pub(crate) check: (u32, bool),
    /// The result of the program.
    pub(crate) action: u32,
}

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Null,
    Swap,
    Encap,
    Lru,
    Steer,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Swap => "swap",
            Self::Encap => "encap",
            Self::Lru => "lru",
            Self::Steer => "steer",
        }
    }
}

const PASS: u32 = 2;
const TX: u32 = 3;

const fn case(program: Program, name: &'static str, destination: Ipv4Addr) -> Case {
    to(program, name, IpAddr::V4(destination))
}

const fn to(program: Program, name: &'static str, destination: IpAddr) -> Case {
    Case {
        program,
        name,
        destination,
        flags: ACK,
        growth: 0,
        check: (0, true),
        action: TX,
    }
}

pub(crate) const CASES: [Case; 15] = [
    Case {
        check: (0, false),
        action: PASS,
        ..case(Program::Null, "baseline", IPIP_VIP)
    },
    case(Program::Swap, "bare MAC swap", IPIP_VIP),
    Case {
        growth: 20,
        ..case(Program::Encap, "bare IPIP encap", IPIP_VIP)
    },
    case(Program::Lru, "bare LRU hit", IPIP_VIP),
    Case {
        check: (0, false),
        action: PASS,
        ..case(Program::Steer, "miss", OTHER)
    },
    Case {
        growth: 20,
        ..case(Program::Steer, "ipip open", IPIP_VIP)
    },
    Case {
        growth: 20,
        flags: SYN,
        ..case(Program::Steer, "ipip new", IPIP_VIP)
    },
    Case {
        growth: 20,
        flags: SYN,
        ..case(Program::Steer, "ipip new, limited", LIMITED_VIP)
    },
    Case {
        growth: 20,
        flags: SYN,
        ..case(Program::Steer, "ipip new, tracked", MOVING_VIP)
    },
    Case {
        growth: 40,
        ..to(Program::Steer, "ipip6 open", IpAddr::V6(V6_VIP))
    },
    Case {
        growth: 40,
        flags: SYN,
        ..to(Program::Steer, "ipip6 new", IpAddr::V6(V6_VIP))
    },
    Case {
        growth: 28,
        ..case(Program::Steer, "gue open", GUE_VIP)
    },
    case(Program::Steer, "l2 open", L2_VIP),
    Case {
        check: (30, true),
        ..case(Program::Steer, "nat forward", NAT_VIP)
    },
    Case {
        check: (30, true),
        ..case(Program::Steer, "nat reverse", SOURCE)
    },
];

/// The packet of a case, but for the flow.
pub(crate) fn template(case: &Case) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[..6].copy_from_slice(&[2, 1, 0, 0, 0, 1]);
    packet[6..12].copy_from_slice(&[2, 2, 0, 0, 0, 2]);
    let transport = match case.destination {
        IpAddr::V4(destination) => {
            packet[12..14].copy_from_slice(&[8, 0]);
            packet[14] = 0x45;
            packet[16..18].copy_from_slice(&((LEN - 14) as u16).to_be_bytes());
            packet[22] = 64;
            packet[23] = 6;
            packet[26..30].copy_from_slice(&[10, 7, 0, 0]);
            packet[30..34].copy_from_slice(&destination.octets());
            34
        }
        // The wrapper writes the number of the flow into the source address.
        IpAddr::V6(destination) => {
            packet[12..14].copy_from_slice(&[0x86, 0xdd]);
            packet[14] = 0x60;
            packet[18..20].copy_from_slice(&((LEN - 54) as u16).to_be_bytes());
            packet[20] = 6;
            packet[21] = 64;
            packet[22..24].copy_from_slice(&[0xfd, 7]);
            packet[38..54].copy_from_slice(&destination.octets());
            54
        }
    };
    packet[transport + 2..transport + 4].copy_from_slice(&PORT.to_be_bytes());
    packet[transport + 12] = 0x50;
    packet[transport + 13] = case.flags;
    packet
}

/// The key of flow number `flow`, as the wrapper writes it into the packet.
pub(crate) fn key(destination: Ipv4Addr, flow: u32) -> FlowKey {
    let [high, low] = (flow as u16).to_be_bytes();
    FlowKey {
        source: Ipv4Addr::new(10, 7, high, low).into(),
        destination: destination.into(),
        source_port: (flow >> 16) as u16 + 1024,
        destination_port: PORT,
        protocol: 6,
        family: 4,
        _pad: 0,
    }
}

/// Fills the tables: a service over ipip with settled slots, and one over nat with `flows` open
/// flows. The interface is that of test runs.
pub(crate) fn prepare(maps: &mut KernelMaps, interface: u32) -> Result<()> {
    maps.set_config(&Config {
        nat_v4: 1,
        flow_seed: 7,
        outer_v4: SOURCE.into(),
        outer_v6: Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1).into(),
        gue_port: 6080,
        nat_port_first: 20_000,
        nat_port_count: 40_000,
        nat_idle_ms: 1_000_000_000,
        nat_closed_ms: 1_000_000_000,
        ..Config::default()
    });
    maps.set_nat_sources(&[IpAddr::V4(SOURCE)])?;
    for id in 1..=LAST_MEMBER {
        maps.set_member(id, &member(id, interface));
    }
    let v4 = table(maps, 0, 1);
    let v6 = table(maps, v4.1, V6_MEMBERS);
    let mut next = v6.0 + v6.1;
    let mut one = |slot: Slot| {
        maps.write_slots(next, &[slot; 100]);
        next += 100;
        (next - 100, 100)
    };
    let gue = one(Slot::settled(GUE_MEMBER, 0));
    let l2 = one(Slot::settled(L2_MEMBER, 0));
    let nat = one(Slot::settled(NAT_MEMBER, 0));
    // New flows differ from the owner, so that each has to be remembered.
    let moving = one(Slot {
        owner: 2,
        ..Slot::settled(1, 2)
    });
    let service = |address: IpAddr, (slots_start, slots_len): (u32, u32)| Service {
        slots_start,
        slots_len,
        ..service(address, PORT)
    };
    maps.publish(&[
        service(IPIP_VIP.into(), v4),
        service(V6_VIP.into(), v6),
        service(GUE_VIP.into(), gue),
        service(L2_VIP.into(), l2),
        service(MOVING_VIP.into(), moving),
        Service {
            id: 1,
            // A limit that is looked at and never reached.
            flow_interval: 1,
            flow_burst: u64::MAX / 2,
            ..service(LIMITED_VIP.into(), v4)
        },
        Service {
            flags: service_flags::HAS_NAT,
            ..service(NAT_VIP.into(), nat)
        },
        Service {
            key: ServiceKey {
                port: 0,
                ..service(SOURCE.into(), nat).key
            },
            flags: service_flags::NAT_SOURCE,
            ..Service::default()
        },
    ])
}

fn member(id: u16, interface: u32) -> Member {
    let mode = match id {
        NAT_MEMBER => Mode::Nat,
        GUE_MEMBER => Mode::Gue,
        L2_MEMBER => Mode::L2,
        _ => Mode::Ipip,
    };
    let [high, low] = id.to_be_bytes();
    let is_v6 = (V6_MEMBERS..V6_MEMBERS + MEMBERS).contains(&id);
    let address: IpAddr = if is_v6 {
        Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id).into()
    } else {
        Ipv4Addr::new(10, 8, high, low).into()
    };
    Member {
        address: address.into(),
        macs: Macs::new([2, 0, 0, 0, 1, low], [2, 0, 0, 0, 0, 1]),
        interface,
        state: MemberState::Up as u8,
        flags: member_flags::RESOLVED,
        mode: mode as u8,
        family: Family::of(&address) as u8,
        mtu: 1500,
        ..Member::default()
    }
}

/// Writes a settled table of `MEMBERS` members, from `first` on, at a place in the arena; returns place
/// and length.
fn table(maps: &mut KernelMaps, start: u32, first: u16) -> (u32, u32) {
    let names: Vec<String> = (0..MEMBERS).map(|id| format!("backend-{id}")).collect();
    let weighted: Vec<Weighted<'_>> = (first..)
        .zip(&names)
        .map(|(id, name)| Weighted {
            id,
            name,
            weight: 1,
        })
        .collect();
    let size = maglev::table_size(usize::from(MEMBERS));
    let slots: Vec<Slot> = maglev::build(&weighted, size, 7)
        .into_iter()
        .map(|choice| Slot::settled(choice.first, choice.second))
        .collect();
    maps.write_slots(start, &slots);
    (start, slots.len() as u32)
}

fn service(address: IpAddr, port: u16) -> Service {
    Service {
        key: ServiceKey {
            address: Address::from(address),
            port,
            protocol: 6,
            family: Family::of(&address) as u8,
            _pad: 0,
        },
        regions: u64::MAX,
        ..Service::default()
    }
}

/// Opens the flows that the bare look-up finds.
pub(crate) fn fill_lru(lru: &mut HashMap<MapData, FlowKey, FlowEntry>, flows: u32) -> Result<()> {
    for flow in 0..flows {
        lru.insert(key(IPIP_VIP, flow), FlowEntry::default(), 0)?;
    }
    Ok(())
}

/// Opens nat flows, both ways.
pub(crate) fn fill_nat(maps: &mut KernelMaps, flows: u32, interface: u32) -> Result<()> {
    let now = now_ms();
    let forward = NatForward {
        source: SOURCE.into(),
        last_ms: now,
        opened_ms: now,
        source_port: 20_000,
        backend_port: PORT,
        member: NAT_MEMBER,
        state: nat_state::ANSWERED,
        backend: maps.member(NAT_MEMBER).address,
        ..NatForward::default()
    };
    let reverse = NatReverse {
        vip: NAT_VIP.into(),
        client: Ipv4Addr::new(10, 7, 0, 1).into(),
        last_ms: now,
        vip_port: PORT,
        client_port: 1024,
        member: NAT_MEMBER,
        state: nat_state::ANSWERED,
        back: Back {
            macs: Macs::new([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 1]),
            interface,
            ..Back::default()
        },
        ..NatReverse::default()
    };
    for flow in 0..flows {
        maps.add_nat_flow(&key(NAT_VIP, flow), &forward, &key(SOURCE, flow), &reverse)?;
    }
    Ok(())
}
