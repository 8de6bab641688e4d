//! What the tracing programs are told, and what they tell. These maps are there only while somebody
//! traces.

use super::{Address, FlowKey};

/// Bytes of a packet that an event has, before and after.
pub const TRACE_BYTES: usize = 128;
/// Bytes of the ring of events.
pub const TRACE_RING: u32 = 1 << 20;
/// Numbers of a service and its classes that a filter has room for.
pub const TRACE_SERVICES: usize = 8;
/// Stands for any service or backend in a filter, and for an unknown one in an event.
pub const TRACE_ANY: u16 = u16::MAX;

/// Programs in [`maps::TRACE_PROGRAMS`](super::maps::TRACE_PROGRAMS), by their index: what tells of a packet, and
/// the usual [`MAIN`](super::MAIN), which has those that nobody is told of.
pub const TRACE_PROGRAMS: [&str; 2] = ["steer_told", "steer_main"];
/// Index of the program that tells.
pub const TRACE_TOLD: u32 = 0;
/// Index of the usual program.
pub const TRACE_USUAL: u32 = 1;
/// Name of the tracing program that every packet comes to first.
pub const TRACE_FIRST: &str = "steer_trace";

/// Which packets are told of. What is 0 or [`TRACE_ANY`] lets everything through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TraceFilter {
    /// One of the packet's addresses, as far as `mask` goes.
    pub address: Address,
    /// Bits of the address that count, as two words in memory order.
    pub mask: [u64; 2],
    /// Drop reasons, by the bits of their numbers.
    pub reasons: u64,
    /// One in so many of the packets that fit; 1 tells of each.
    pub sample: u32,
    /// At most so many events on each CPU; 0 for no bound.
    pub limit: u32,
    /// Numbers of the service and its classes, of which there are fewer as a rule: one comes again then.
    pub services: [u16; TRACE_SERVICES],
    /// One of the packet's ports.
    pub port: u16,
    /// The backend's number.
    pub backend: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Verdicts, by the bits of [`TraceVerdict`].
    pub verdicts: u8,
    #[doc(hidden)]
    pub _pad: u16,
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
    /// Returns whether a flow fits.
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

    /// Returns whether addresses matter.
    #[inline(always)]
    pub const fn has_address(&self) -> bool {
        self.mask[0] != 0 || self.mask[1] != 0
    }

    /// Returns whether a service, or one of its classes, fits.
    #[inline(always)]
    pub fn takes_service(&self, number: u16) -> bool {
        let mut takes = self.services[0] == TRACE_ANY;
        for service in self.services {
            takes |= service == number;
        }
        takes
    }

    /// Returns whether packets of no flow fit, such as ARP.
    #[inline(always)]
    pub const fn takes_any_flow(&self) -> bool {
        self.protocol == 0 && self.port == 0 && !self.has_address()
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceVerdict {
    /// The kernel has it.
    Passed = 1,
    /// It is dropped.
    Dropped = 2,
    /// It left by the interface that it came in by.
    Transmitted = 3,
    /// It left by another interface.
    Redirected = 4,
    /// Its sender was answered in its place: a reset, or an ICMP error.
    Answered = 5,
}

impl TraceVerdict {
    /// All of them.
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
    /// The flow table knew the flow.
    pub const REMEMBERED: u32 = 4;
    /// The flow was put into the flow table.
    pub const INSERTED: u32 = 8;
    /// The nat table knew the flow.
    pub const TRANSLATED: u32 = 16;
    /// A SYN was not answered, and another member was tried.
    pub const RETRIED: u32 = 32;
    /// A member could not take it.
    pub const UNUSABLE: u32 = 64;
    /// A member is in a region that the service may not be served from.
    pub const OUTSIDE: u32 = 128;
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

/// A packet, and what became of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TraceEvent {
    /// When: nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Its flow; without a family if it has none.
    pub key: FlowKey,
    /// The interface that it came in by.
    pub interface: u32,
    /// The interface that it left by, if it did. Until it is told of, the reason of a drop.
    pub sent_by: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Length of the frame that was sent.
    pub sent_len: u32,
    /// Its slot; `u32::MAX` if none was looked at.
    pub slot: u32,
    /// [`trace_steps`].
    pub steps: u32,
    /// The number of its service, or [`TRACE_ANY`].
    pub service: u16,
    /// The number of its class, or [`TRACE_ANY`].
    pub class: u16,
    /// The member; 0 if there is none.
    pub member: u16,
    /// A [`TraceVerdict`].
    pub verdict: u8,
    /// The number of the drop reason, of what was answered as well; 0 if there is none.
    pub reason: u8,
    /// Bytes in `before`.
    pub before_len: u16,
    /// Bytes in `after`; none if the packet did not leave.
    pub after_len: u16,
    #[doc(hidden)]
    pub _pad: u32,
    /// Its first bytes as it came.
    pub before: [u8; TRACE_BYTES],
    /// The first bytes of what left.
    pub after: [u8; TRACE_BYTES],
}

/// What the programs know of the packet that they look at, and have counted, on one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TraceState {
    /// Packets that fit.
    pub fits: u64,
    /// Events that were told.
    pub told: u64,
    /// Events that the ring had no room for.
    pub lost: u64,
    /// What the kernel is to do with the packet.
    pub action: u32,
    #[doc(hidden)]
    pub _pad: u32,
    /// The event, as far as it is known.
    pub event: TraceEvent,
}
