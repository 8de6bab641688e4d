//! The packets that are measured, and the tables that they meet.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use steer_common::abi::{
    Address, Back, Config, FlowEntry, FlowKey, Macs, Member, MemberState, Mode, NatForward,
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
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const PORT: u16 = 443;
const MEMBERS: u16 = 100;
const NAT_MEMBER: u16 = MEMBERS + 1;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// What a packet is and what has to become of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) name: &'static str,
    pub(crate) destination: Ipv4Addr,
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

pub(crate) const CASES: [Case; 9] = [
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
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14] = 0x45;
    packet[16..18].copy_from_slice(&((LEN - 14) as u16).to_be_bytes());
    packet[22] = 64;
    packet[23] = 6;
    packet[26..30].copy_from_slice(&[10, 7, 0, 0]);
    packet[30..34].copy_from_slice(&case.destination.octets());
    packet[36..38].copy_from_slice(&PORT.to_be_bytes());
    packet[46] = 0x50;
    packet[47] = case.flags;
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
        nat_port_first: 20_000,
        nat_port_count: 40_000,
        nat_idle_ms: 1_000_000_000,
        nat_closed_ms: 1_000_000_000,
        ..Config::default()
    });
    maps.set_nat_sources(&[IpAddr::V4(SOURCE)])?;
    for id in 1..=NAT_MEMBER {
        let mode = if id == NAT_MEMBER {
            Mode::Nat
        } else {
            Mode::Ipip
        };
        let [high, low] = id.to_be_bytes();
        let member = Member {
            address: Ipv4Addr::new(10, 8, high, low).into(),
            macs: Macs::new([2, 0, 0, 0, 1, low], [2, 0, 0, 0, 0, 1]),
            interface,
            state: MemberState::Up as u8,
            flags: member_flags::RESOLVED,
            mode: mode as u8,
            family: 4,
            ..Member::default()
        };
        maps.set_member(id, &member);
    }
    let names: Vec<String> = (1..=MEMBERS).map(|id| format!("backend-{id}")).collect();
    let weighted: Vec<Weighted<'_>> = (1..)
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
    let len = slots.len() as u32;
    maps.write_slots(0, &slots);
    maps.write_slots(len, &[Slot::settled(NAT_MEMBER, 0); 100]);
    maps.publish(&[
        Service {
            slots_len: len,
            ..service(IPIP_VIP, PORT)
        },
        Service {
            slots_start: len,
            slots_len: 100,
            flags: service_flags::HAS_NAT,
            ..service(NAT_VIP, PORT)
        },
        Service {
            flags: service_flags::NAT_SOURCE,
            ..service(SOURCE, 0)
        },
    ])
}

fn service(address: Ipv4Addr, port: u16) -> Service {
    Service {
        key: ServiceKey {
            address: Address::from(address),
            port,
            protocol: 6,
            family: 4,
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
