//! Verdicts of the decision.

pub use crate::abi::DropReason;
use crate::abi::{Address, ClientNextHop, FlowKey};

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

impl Verdict {
    /// Returns the verdict for a refused packet. [`DropReason::Reset`] asks for a reset.
    #[inline(always)]
    pub(crate) const fn of_refusal(reason: DropReason) -> Self {
        if reason as u8 == DropReason::Reset as u8 {
            Self::Reset
        } else {
            Self::Drop(reason)
        }
    }
}
