//! Filter and events of the tracing programs. These maps exist only while a trace runs.

use super::{Address, FlowKey};

/// Number of bytes of a packet in an event, before and after.
pub const TRACE_BYTES: usize = 128;
/// Size of the ring of events in bytes.
pub const TRACE_RING: u32 = 1 << 20;
/// Numbers of a service and its classes in a filter.
pub const TRACE_SERVICES: usize = 8;
/// Any service or backend in a filter, and an unknown one in an event.
pub const TRACE_ANY: u16 = u16::MAX;

/// Programs in [`maps::TRACE_PROGRAMS`](super::maps::TRACE_PROGRAMS), by index: the one that emits
/// events, and the usual [`MAIN`](super::MAIN) for packets that do not match.
pub const TRACE_PROGRAMS: [&str; 2] = ["steer_trace_emit", "steer_main"];
/// Index of the program that emits events.
pub const TRACE_EMIT: u32 = 0;
/// Index of the usual entry program.
pub const TRACE_MAIN: u32 = 1;
/// Name of the tracing entry program.
pub const TRACE_FIRST: &str = "steer_trace";

/// Filter of packets. A field of 0 or [`TRACE_ANY`] matches everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TraceFilter {
    /// One of the packet's addresses, under `mask`.
    pub address: Address,
    /// Significant bits of the address, as two words in memory order.
    pub mask: [u64; 2],
    /// Drop reasons, as bits of their numbers.
    pub reasons: u64,
    /// Sampling: one of this many matching packets; 1 traces each.
    pub sample: u32,
    /// Maximum number of events on each CPU; 0 is unlimited.
    pub limit: u32,
    /// Numbers of the service and its classes; unused entries repeat one of them.
    pub services: [u16; TRACE_SERVICES],
    /// One of the packet's ports.
    pub port: u16,
    /// Number of the backend.
    pub backend: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Verdicts, as bits of [`TraceVerdict`].
    pub verdicts: u8,
    #[doc(hidden)]
    pub _pad: u16,
}

impl TraceFilter {
    /// Returns a filter that matches no packet.
    pub fn nothing() -> Self {
        Self {
            // The bit of no verdict.
            verdicts: 1 << 7,
            ..Self::default()
        }
    }
}

impl Default for TraceFilter {
    fn default() -> Self {
        Self {
            address: Address::default(),
            mask: [0; 2],
            reasons: 0,
            sample: 1,
            limit: 0,
            port: 0,
            services: [TRACE_ANY; TRACE_SERVICES],
            backend: TRACE_ANY,
            protocol: 0,
            verdicts: 0,
            _pad: 0,
        }
    }
}

impl TraceFilter {
    /// Returns whether a flow matches.
    #[inline(always)]
    pub fn takes_flow(&self, key: &FlowKey) -> bool {
        let [high, low] = self.address.words();
        let fits = |address: Address| {
            let words = address.words();
            (words[0] ^ high) & self.mask[0] == 0 && (words[1] ^ low) & self.mask[1] == 0
        };
        (self.protocol == 0 || self.protocol == key.protocol)
            && (self.port == 0 || self.port == key.source_port || self.port == key.destination_port)
            && (fits(key.source) || fits(key.destination))
    }

    /// Returns whether addresses are filtered.
    #[inline(always)]
    pub const fn has_address(&self) -> bool {
        self.mask[0] != 0 || self.mask[1] != 0
    }

    /// Returns whether a service, or one of its classes, matches.
    #[inline(always)]
    pub fn takes_service(&self, number: u16) -> bool {
        let mut takes = self.services[0] == TRACE_ANY;
        for service in self.services {
            takes |= service == number;
        }
        takes
    }

    /// Returns whether packets without a flow match, such as ARP.
    #[inline(always)]
    pub const fn takes_any_flow(&self) -> bool {
        self.protocol == 0 && self.port == 0 && !self.has_address()
    }
}

/// Outcome for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceVerdict {
    /// Passed to the kernel.
    Passed = 1,
    /// Dropped.
    Dropped = 2,
    /// Sent on the incoming interface.
    Transmitted = 3,
    /// Sent on another interface.
    Redirected = 4,
    /// Answered in its place: by a reset, or an ICMP error.
    Answered = 5,
}

impl TraceVerdict {
    /// All verdicts.
    pub const ALL: [Self; 5] = [
        Self::Passed,
        Self::Dropped,
        Self::Transmitted,
        Self::Redirected,
        Self::Answered,
    ];
}

/// Bits of [`TraceEvent::steps`].
pub mod trace_steps {
    /// The flow is new, and a member was picked.
    pub const PICKED: u32 = 1;
    /// The flow is open, and went to the slot's owner.
    pub const OWNER: u32 = 2;
    /// The flow has an entry in the flow table.
    pub const FLOW_TABLE_HIT: u32 = 4;
    /// The flow was inserted into the flow table.
    pub const INSERTED: u32 = 8;
    /// The flow has an entry in the nat table.
    pub const NAT_HIT: u32 = 16;
    /// A SYN was unanswered, and another member was tried.
    pub const RETRIED: u32 = 32;
    /// A member could not take the packet.
    pub const UNAVAILABLE: u32 = 64;
    /// A member is in a region that may not serve the service.
    pub const OUTSIDE_REGION: u32 = 128;
    /// No member takes new flows.
    pub const END_OF_CHAIN: u32 = 256;
    /// A backend's answer, which goes to the client.
    pub const ANSWER: u32 = 512;
    /// A member's load, or number of flows, made the flow try another one.
    pub const HOT: u32 = 1024;
    /// The connection id names the member.
    pub const SERVER_ID: u32 = 2048;
    /// The connection id names a server that the service does not have.
    pub const STRANGE_ID: u32 = 4096;
}

/// A packet with its outcome.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TraceEvent {
    /// Time in nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Flow; without a family if there is none.
    pub key: FlowKey,
    /// Incoming interface.
    pub interface: u32,
    /// Outgoing interface, if the packet was sent. Holds the reason of a drop until the event is
    /// emitted.
    pub sent_by: u32,
    /// Length of the received frame in bytes.
    pub len: u32,
    /// Length of the sent frame.
    pub sent_len: u32,
    /// Index of the slot; `u32::MAX` if there is none.
    pub slot: u32,
    /// Bits of [`trace_steps`].
    pub steps: u32,
    /// Number of the service, or [`TRACE_ANY`].
    pub service: u16,
    /// Number of the class, or [`TRACE_ANY`].
    pub class: u16,
    /// Member; 0 if there is none.
    pub member: u16,
    /// A [`TraceVerdict`].
    pub verdict: u8,
    /// Number of the drop reason, also of an answer; 0 if there is none.
    pub reason: u8,
    /// Number of bytes in `before`.
    pub before_len: u16,
    /// Number of bytes in `after`; 0 if the packet was not sent.
    pub after_len: u16,
    #[doc(hidden)]
    pub _pad: u32,
    /// First bytes as received.
    pub before: [u8; TRACE_BYTES],
    /// First bytes as sent.
    pub after: [u8; TRACE_BYTES],
}

/// State of the current packet, and counters, on one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TraceState {
    /// Packets that matched.
    pub fits: u64,
    /// Events emitted.
    pub emitted: u64,
    /// Events lost because the ring was full.
    pub lost: u64,
    /// XDP action for the packet.
    pub action: u32,
    #[doc(hidden)]
    pub _pad: u32,
    /// Event, as far as known.
    pub event: TraceEvent,
}
