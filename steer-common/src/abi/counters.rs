//! Traffic counters of members.

/// Traffic of a member, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemberCounters {
    /// Packets from clients.
    pub packets: u64,
    /// Bytes of these packets as received, with Ethernet headers.
    pub bytes: u64,
    /// New flows: all flows under `nat`, otherwise TCP flows.
    pub flows: u64,
    /// Translated packets from the backend; 0 for direct-return modes.
    pub replies: u64,
    /// Requests started, if latencies of `nat` are measured.
    pub requests: u64,
    /// Signs of answers: under `nat` packets with payload from the backend, otherwise clients' pure
    /// acknowledgements. One of the latter belongs to each handshake, before any answer.
    pub answers: u64,
    /// Bytes of payload from the backend under `nat`.
    pub answer_bytes: u64,
}

/// Events that a packet starts or shows, as bits.
pub mod begins {
    /// Start of a flow.
    pub const FLOW: u8 = 1;
    /// Start of a request.
    pub const REQUEST: u8 = 2;
    /// Sign of an answer.
    pub const ANSWER: u8 = 4;
}

impl MemberCounters {
    /// Counts a packet from a client, with its length and events.
    #[inline(always)]
    pub const fn count(&mut self, bytes: u64, begins: u8) {
        self.packets += 1;
        self.bytes += bytes;
        self.flows += (begins & begins::FLOW) as u64;
        self.requests += ((begins & begins::REQUEST) / begins::REQUEST) as u64;
        self.answers += ((begins & begins::ANSWER) / begins::ANSWER) as u64;
    }

    /// Counts a packet from the member, with the length of its payload.
    #[inline(always)]
    pub const fn count_reply(&mut self, content: u64) {
        self.replies += 1;
        self.answers += (content != 0) as u64;
        self.answer_bytes += content;
    }

    /// Adds the counters of another CPU.
    pub fn add(&mut self, other: &Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.flows = self.flows.wrapping_add(other.flows);
        self.replies = self.replies.wrapping_add(other.replies);
        self.requests = self.requests.wrapping_add(other.requests);
        self.answers = self.answers.wrapping_add(other.answers);
        self.answer_bytes = self.answer_bytes.wrapping_add(other.answer_bytes);
    }
}
