//! Verdicts and drop reasons.

use crate::abi::{Address, ClientNextHop, FlowKey};

/// Reasons for drops. The numbers are stable, because counters and dashboards use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// For a service, but its lengths contradict each other or its transport header is truncated.
    Malformed = 1,
    /// A fragment for a service's address whose first fragment was not seen, or one that would
    /// overwrite the first one's header.
    Fragment = 2,
    /// No backend takes new flows, and the service's chain ends with a drop.
    NoBackend = 3,
    /// The flow's backend is down, and the flow can be neither reset nor moved.
    MemberDown = 4,
    /// A required flow-table entry could not be inserted.
    FlowTableFull = 5,
    /// No port was free for a new nat flow.
    NatPortsExhausted = 6,
    /// An open flow that is not in the nat table.
    NatUnknownFlow = 7,
    /// TTL or hop limit expired. The sender is informed, from this node's address on the incoming
    /// link.
    TtlExpired = 8,
    /// No route to the next hop, or its MAC address is unknown.
    NoRoute = 9,
    /// No headroom for another header.
    NoHeadroom = 10,
    /// Longer than an IP packet can be once it is encapsulated, or than the MTU of the path to the
    /// member. In the latter case the sender is informed.
    TooBig = 11,
    /// Answered with a TCP reset.
    Reset = 12,
    /// The program and its maps disagree: a bug in steer.
    Internal = 13,
    /// Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040
    /// section 4.2).
    DecapEcn = 14,
    /// From an address that the operator denies.
    Denied = 15,
    /// The only members that could take it are in regions that may not serve the service.
    Residency = 16,
    /// A new flow above the rate limit of the service.
    RateLimited = 17,
    /// A new flow above the rate limit of its source.
    SourceLimited = 18,
    /// A new flow of a shed priority, which makes room for more important ones.
    Shed = 19,
    /// Dropped during the cut-over to another version of the program; the sender repeats it.
    Takeover = 20,
    /// From a source that no packet from a network can have, or from its own destination.
    MartianSource = 21,
    /// A backend's packet on another interface than that of the next hop to the backend.
    WrongInterface = 22,
    /// A TCP segment that would open a flow or be answered, and whose checksum is wrong or, in a
    /// fragment, cannot be verified.
    BadChecksum = 23,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::Fragment,
        Self::NoBackend,
        Self::MemberDown,
        Self::FlowTableFull,
        Self::NatPortsExhausted,
        Self::NatUnknownFlow,
        Self::TtlExpired,
        Self::NoRoute,
        Self::NoHeadroom,
        Self::TooBig,
        Self::Reset,
        Self::Internal,
        Self::DecapEcn,
        Self::Denied,
        Self::Residency,
        Self::RateLimited,
        Self::SourceLimited,
        Self::Shed,
        Self::Takeover,
        Self::MartianSource,
        Self::WrongInterface,
        Self::BadChecksum,
    ];
    /// Length of the array of counters: above the largest number.
    pub const COUNT: u32 = 32;

    /// Returns the name in metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::NoBackend => "no-backend",
            Self::MemberDown => "member-down",
            Self::FlowTableFull => "flow-table-full",
            Self::NatPortsExhausted => "nat-ports-exhausted",
            Self::NatUnknownFlow => "nat-unknown-flow",
            Self::TtlExpired => "ttl-expired",
            Self::NoRoute => "no-route",
            Self::NoHeadroom => "no-headroom",
            Self::TooBig => "too-big",
            Self::Reset => "reset",
            Self::Internal => "internal",
            Self::DecapEcn => "decap-ecn",
            Self::Denied => "denied",
            Self::Residency => "residency",
            Self::RateLimited => "rate-limited",
            Self::SourceLimited => "source-limited",
            Self::Shed => "shed",
            Self::Takeover => "takeover",
            Self::MartianSource => "martian-source",
            Self::WrongInterface => "wrong-interface",
            Self::BadChecksum => "bad-checksum",
        }
    }

    /// Returns the meaning in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Malformed => {
                "For a service, but its lengths contradict each other or its transport header is \
                 truncated."
            }
            Self::Fragment => {
                "A fragment for a service's address whose first fragment was not seen, or one \
                 that would overwrite the first one's header."
            }
            Self::NoBackend => {
                "No backend takes new flows, and the service's chain ends with a drop."
            }
            Self::MemberDown => {
                "The flow's backend is down, and it can be neither reset nor moved."
            }
            Self::FlowTableFull => "A required flow-table entry could not be inserted.",
            Self::NatPortsExhausted => "No port was free for a new nat flow.",
            Self::NatUnknownFlow => "An open flow that is not in the nat table.",
            Self::TtlExpired => {
                "TTL or hop limit expired. The sender is informed, from this node's address on \
                 the incoming link."
            }
            Self::NoRoute => "There is no route to the next hop, or its MAC address is unknown.",
            Self::NoHeadroom => "No headroom for another header.",
            Self::TooBig => {
                "Longer than an IP packet can be once it is encapsulated, or than the MTU of the \
                 path to the member. In the latter case the sender is informed."
            }
            Self::Reset => "Answered with a TCP reset.",
            Self::Internal => "The program and its maps disagree: a bug in steer.",
            Self::DecapEcn => {
                "Congestion was marked on the outer header of a packet that cannot carry the \
                 mark (RFC 6040 section 4.2)."
            }
            Self::Denied => "From an address that the operator denies.",
            Self::Residency => {
                "The only members that could take it are in regions that may not serve the \
                 service."
            }
            Self::RateLimited => "A new flow above the rate limit of the service.",
            Self::SourceLimited => "A new flow above the rate limit of its source.",
            Self::Shed => {
                "A new flow of a shed priority, which makes room for more important ones."
            }
            Self::Takeover => {
                "Dropped during the cut-over to another version of the program; the sender \
                 repeats it."
            }
            Self::MartianSource => {
                "From a source that no packet from a network can have (loopback, multicast, \
                 broadcast, unspecified, reserved), or from its own destination."
            }
            Self::WrongInterface => {
                "A backend's packet on another interface than that of the next hop to the backend."
            }
            Self::BadChecksum => {
                "A TCP segment that would open a flow or be answered, and whose checksum is wrong \
                 or, in a fragment, cannot be verified."
            }
        }
    }
}

/// Member of a packet. It holds numbers only: the verifier does not let a register be a pointer or
/// a reason by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Number of the member.
    pub id: u16,
    /// [`Mode`](crate::abi::Mode) of the member.
    pub mode: u8,
    /// Events of the packet: [`begins`](crate::abi::begins).
    pub begins: u8,
}

/// Translated addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl Endpoints {
    /// Key of the packets that go the other way, in the same protocol and family as `key`.
    #[inline(always)]
    pub(crate) const fn reverse_key(&self, key: &FlowKey, member: u16) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: key.protocol,
            family: key.family,
            member,
        }
    }
}

/// Verdict for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed to the kernel unchanged.
    Pass,
    /// Dropped and counted.
    Drop(DropReason),
    /// Sent to a member with unchanged addresses, in the member's mode.
    Encap(Target),
    /// Creates a flow to a member with rewritten addresses, whose nat entries must be added first.
    NatCreate(Target),
    /// For a QUIC service: its header must be read.
    Quic,
    /// For a QUIC service: its connection id may have to be decrypted first.
    QuicDecrypt,
    /// Sent to a member with rewritten addresses, by the existing or new nat entry of this flow and
    /// member: QUIC.
    NatQuic(Target),
    /// Sent to a member with rewritten addresses.
    NatForward(Target, Endpoints),
    /// A member's packet, sent to the client with the addresses that it knows.
    NatReply(u16, Endpoints, ClientNextHop),
    /// A TCP segment of a flow with rewritten addresses whose checksum and sequence numbers must be
    /// examined first.
    NatTcp,
    /// Answered with a TCP reset.
    Reset,
    /// Packet of a flow with rewritten addresses that must be checked first, by
    /// [`nat_revalidate`](crate::programs::nat_revalidate()).
    NatRevalidate,
}
