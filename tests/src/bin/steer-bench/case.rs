//! Benchmark cases.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use steer_common::abi::{FlowKey, bench::WORDS};
use steer_dataplane::KernelMaps;

/// Length of each packet: the smallest that holds the headers.
pub(crate) const LEN: usize = WORDS * 8;
/// Port of every service.
pub(crate) const PORT: u16 = 443;

pub(crate) const UDP: u8 = 17;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN: u8 = 0x02;

const PASS: u32 = 2;
const TX: u32 = 3;

/// A packet, and the expected result for it.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) name: &'static str,
    pub(crate) destination: IpAddr,
    pub(crate) flags: u8,
    /// Beginning of the payload for UDP; `None` for TCP.
    pub(crate) datagram: Option<&'static [u8]>,
    /// Bytes by which the packet grows.
    pub(crate) growth: u32,
    /// Offset of a word, and whether the program changes it.
    pub(crate) check: (u32, bool),
    /// Expected return code of the program.
    pub(crate) action: u32,
    /// Whether each packet belongs to a new flow. Such cases run with full tables of the default
    /// size.
    pub(crate) unique: bool,
    /// Setting enabled only for this case.
    pub(crate) setting: Option<Setting>,
}

/// Function that enables or disables a setting.
pub(crate) type Setting = fn(&mut KernelMaps, bool) -> Result<()>;

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Null,
    Swap,
    Encap,
    Array,
    Lpm,
    Lru,
    LruInsert,
    Steer,
    /// Steer with a trace of other packets.
    Others,
    /// Steer with a trace of these packets.
    Traced,
}

impl Program {
    /// All programs other than steer's own.
    pub(crate) const BARE: [Self; 7] = [
        Self::Null,
        Self::Swap,
        Self::Encap,
        Self::Array,
        Self::Lpm,
        Self::Lru,
        Self::LruInsert,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Swap => "swap",
            Self::Encap => "encap",
            Self::Array => "array",
            Self::Lpm => "lpm",
            Self::Lru => "lru",
            Self::LruInsert => "lru_insert",
            Self::Steer | Self::Others | Self::Traced => "steer",
        }
    }
}

impl Case {
    /// Creates a case for a packet of an open TCP flow over IPv4, sent on with other MAC addresses.
    pub(crate) const fn open(name: &'static str, destination: Ipv4Addr) -> Self {
        Self::to(name, IpAddr::V4(destination))
    }

    /// Creates a case for a packet of an open TCP flow, sent on with other MAC addresses.
    pub(crate) const fn to(name: &'static str, destination: IpAddr) -> Self {
        Self {
            program: Program::Steer,
            name,
            destination,
            flags: ACK,
            datagram: None,
            growth: 0,
            check: (0, true),
            action: TX,
            unique: false,
            setting: None,
        }
    }

    /// Changes the case to a new flow.
    pub(crate) const fn new_flow(self) -> Self {
        Self { flags: SYN, ..self }
    }

    /// Changes the case to UDP with a payload.
    pub(crate) const fn datagram(self, payload: &'static [u8]) -> Self {
        Self {
            datagram: Some(payload),
            ..self
        }
    }

    /// Makes the packet grow by a number of bytes.
    pub(crate) const fn grown(self, growth: u32) -> Self {
        Self { growth, ..self }
    }

    /// Makes the packet pass to the kernel unchanged.
    pub(crate) const fn passed(self) -> Self {
        Self {
            check: (0, false),
            action: PASS,
            ..self
        }
    }

    /// Makes the program rewrite the IPv4 destination.
    pub(crate) const fn translated(self) -> Self {
        Self {
            check: (30, true),
            ..self
        }
    }

    /// Changes the program.
    pub(crate) const fn by(self, program: Program) -> Self {
        Self { program, ..self }
    }
}

/// Returns the packet of a case, except for the flow.
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
    if let Some(payload) = case.datagram {
        // Datagrams are measured over IPv4 only.
        packet[23] = UDP;
        packet[38..40].copy_from_slice(&((LEN - 34) as u16).to_be_bytes());
        packet[42..42 + payload.len()].copy_from_slice(payload);
    } else {
        packet[transport + 12] = 0x50;
        packet[transport + 13] = case.flags;
    }
    packet
}

/// Returns the key of a flow number, as the wrapper writes it into the packet.
pub(crate) fn key(destination: Ipv4Addr, flow: u32) -> FlowKey {
    let [high, low] = (flow as u16).to_be_bytes();
    FlowKey {
        source: Ipv4Addr::new(10, 7, high, low).into(),
        destination: destination.into(),
        source_port: (flow >> 16) as u16 + 1024,
        destination_port: PORT,
        protocol: 6,
        family: 4,
        member: 0,
    }
}
