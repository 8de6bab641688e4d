//! Counters.

/// What went to a member, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemberCounters {
    /// Packets from clients.
    pub packets: u64,
    /// Bytes of those packets, as they came, with Ethernet headers.
    pub bytes: u64,
    /// New flows. Under `nat` every flow counts, otherwise TCP ones.
    pub flows: u64,
    /// Packets from the backend that were translated back. 0 for modes with direct return.
    pub replies: u64,
}

impl MemberCounters {
    /// Adds what another CPU counted.
    pub fn add(&mut self, other: &Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.flows = self.flows.wrapping_add(other.flows);
        self.replies = self.replies.wrapping_add(other.replies);
    }
}
