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
    /// Requests that began, where the daemon has latencies of `nat` measured.
    pub requests: u64,
    /// Signs that it answers: under `nat` packets with content that came back, otherwise clients' packets that
    /// do nothing but acknowledge. One of the latter belongs to each connection, before it was answered.
    pub answers: u64,
    /// Bytes of content that came back under `nat`.
    pub answer_bytes: u64,
}

/// What a packet begins, or shows, as bits.
pub mod begins {
    /// A flow.
    pub const FLOW: u8 = 1;
    /// A request.
    pub const REQUEST: u8 = 2;
    /// Nothing: it says that there was an answer.
    pub const ANSWER: u8 = 4;
}

impl MemberCounters {
    /// Counts a packet from a client, of so many bytes, that begins this.
    #[inline(always)]
    pub const fn count(&mut self, bytes: u64, begins: u8) {
        self.packets += 1;
        self.bytes += bytes;
        self.flows += (begins & begins::FLOW) as u64;
        self.requests += ((begins & begins::REQUEST) / begins::REQUEST) as u64;
        self.answers += ((begins & begins::ANSWER) / begins::ANSWER) as u64;
    }

    /// Counts a packet from the member, with so many bytes of content.
    #[inline(always)]
    pub const fn count_reply(&mut self, content: u64) {
        self.replies += 1;
        self.answers += (content != 0) as u64;
        self.answer_bytes += content;
    }

    /// Adds what another CPU counted.
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
