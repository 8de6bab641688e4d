//! What is decided for a packet.

use crate::abi::{Address, Back, FlowKey};

/// Why a packet was dropped. The numbers are stable: counters and dashboards know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// For a service, but its lengths contradict each other or its transport header is cut.
    Malformed = 1,
    /// A fragment for a service's address whose first part was not seen, or one that would overwrite
    /// the first part's header.
    Fragment = 2,
    /// No backend takes new flows, and the service's chain ends with a drop.
    NoBackend = 3,
    /// The flow's backend is down, and it can be neither reset nor moved.
    MemberDown = 4,
    /// A flow that must be remembered could not be.
    FlowTableFull = 5,
    /// No port was free to translate a new flow with.
    NatPortsExhausted = 6,
    /// An open flow that the nat table does not know.
    NatUnknownFlow = 7,
    /// It may travel no further: TTL or hop limit is used up. The sender is told, from this node's address on
    /// the link that the packet came in by.
    TtlExpired = 8,
    /// There is no way to the next hop, or its MAC address is unknown.
    NoRoute = 9,
    /// No room in front of the packet for another header.
    NoHeadroom = 10,
    /// Longer than an IP packet can be once it is encapsulated, or than the way to the member takes.
    /// In the latter case the sender is told.
    TooBig = 11,
    /// Answered with a TCP reset.
    Reset = 12,
    /// The program and its maps disagree: a fault of ours.
    Internal = 13,
    /// Congestion was marked on the outer header of a packet that cannot carry the mark
    /// (RFC 6040 section 4.2).
    DecapEcn = 14,
    /// From an address that the operator denies.
    Denied = 15,
    /// The only members that could take it are in regions that the service may not be served from.
    Residency = 16,
    /// One new flow more than the service takes.
    RateLimited = 17,
    /// One new flow more than the service or class takes of its source.
    SourceLimited = 18,
    /// A new flow of a priority that is shed, so that what is more important finds room.
    Shed = 19,
    /// In the moment in which another version of the program takes over; the sender repeats it.
    Takeover = 20,
    /// From a source that no packet from a network has, or from its own destination.
    MartianSource = 21,
    /// A backend's packet that came in by another interface than that of the next hop to the backend.
    WrongInterface = 22,
    /// A TCP segment that would open a flow or be answered, and whose checksum is wrong or, of a fragment, cannot be
    /// verified.
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
    /// Entries of the counters' array: one more than the largest number.
    pub const COUNT: u32 = 32;

    /// The name in metrics and tables.
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

    /// What it means, in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Malformed => {
                "For a service, but its lengths contradict each other or its transport header \
                 is cut."
            }
            Self::Fragment => {
                "A fragment for a service's address whose first part was not seen, or one that \
                 would overwrite the first part's header."
            }
            Self::NoBackend => {
                "No backend takes new flows, and the service's chain ends with a drop."
            }
            Self::MemberDown => {
                "The flow's backend is down, and it can be neither reset nor moved."
            }
            Self::FlowTableFull => "A flow that must be remembered could not be.",
            Self::NatPortsExhausted => "No port was free to translate a new flow with.",
            Self::NatUnknownFlow => "An open flow that the nat table does not know.",
            Self::TtlExpired => {
                "It may travel no further: TTL or hop limit is used up. The sender is told, from this node's \
                 address on the link that the packet came in by."
            }
            Self::NoRoute => "There is no way to the next hop, or its MAC address is unknown.",
            Self::NoHeadroom => "No room in front of the packet for another header.",
            Self::TooBig => {
                "Longer than an IP packet can be once it is encapsulated, or than the way to \
                 the member takes. In the latter case the sender is told."
            }
            Self::Reset => "Answered with a TCP reset.",
            Self::Internal => "The program and its maps disagree: a fault of ours.",
            Self::DecapEcn => {
                "Congestion was marked on the outer header of a packet that cannot carry the \
                 mark (RFC 6040 section 4.2)."
            }
            Self::Denied => "From an address that the operator denies.",
            Self::Residency => {
                "The only members that could take it are in regions that the service may not be \
                 served from."
            }
            Self::RateLimited => "One new flow more than the service takes.",
            Self::SourceLimited => {
                "One new flow more than the service or class takes of its source."
            }
            Self::Shed => {
                "A new flow of a priority that is shed, so that what is more important finds \
                 room."
            }
            Self::Takeover => {
                "In the moment in which another version of the program takes over; the sender \
                 repeats it."
            }
            Self::MartianSource => {
                "From a source that no packet from a network has (loopback, multicast, broadcast, \
                 unspecified, reserved), or from its own destination."
            }
            Self::WrongInterface => {
                "A backend's packet that came in by another interface than that of the next hop to \
                 the backend."
            }
            Self::BadChecksum => {
                "A TCP segment that would open a flow or be answered, and whose checksum is wrong or, \
                 of a fragment, cannot be verified."
            }
        }
    }
}

/// The member that a packet goes to. It holds numbers only: the verifier does not let a register be
/// a pointer or a reason by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub id: u16,
    /// Its [`Mode`](crate::abi::Mode).
    pub mode: u8,
    /// What the packet begins: [`begins`](crate::abi::begins).
    pub begins: u8,
}

/// What addresses and ports become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl Ends {
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

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left to the kernel, untouched.
    Pass,
    /// Dropped and counted.
    Drop(DropReason),
    /// Sent to a member with its addresses as they are, in the way that the member's mode says.
    Deliver(Target),
    /// Opens a flow to a member with rewritten addresses, which the nat table has to hold first.
    Open(Target),
    /// For a service of QUIC: what its header says has to be looked at.
    Quic,
    /// For a service of QUIC: its connection id may have to be decrypted first.
    QuicDecrypt,
    /// Sent to a member with rewritten addresses, by the entry that the nat table has for this flow
    /// and member, or gets now: QUIC.
    Translate(Target),
    /// Sent to a member with rewritten addresses.
    Forward(Target, Ends),
    /// A member's packet, sent to the client with the addresses that it knows.
    Return(u16, Ends, Back),
    /// A TCP segment of a flow with rewritten addresses whose checksum and sequence numbers have to be looked at first.
    Judge,
    /// Answered with a TCP reset.
    Reset,
    /// Of a flow with rewritten addresses that has to be looked at first: by [`check`](crate::check).
    Check,
}
