//! Drop reasons. To add one, add a row to the table.

macro_rules! drop_reasons {
    ($($reason:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// Reasons for drops. The numbers are stable and never reused, because counters and dashboards use
        /// them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $reason = $number,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$reason),*];

            /// Returns the name in metrics and tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }

            /// Returns the meaning in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$reason => $meaning,)*
                }
            }
        }
    };
}

drop_reasons! {
    Malformed = 1, "malformed",
        "For a service, but its lengths contradict each other or its transport header is \
         truncated.";
    Fragment = 2, "fragment",
        "A fragment for a service's address whose first fragment was not seen, or one that \
         would overwrite the first one's header.";
    NoBackend = 3, "no-backend",
        "No backend takes new flows, and the service's chain ends with a drop.";
    MemberDown = 4, "member-down",
        "The flow's backend is down, and it can be neither reset nor moved.";
    FlowTableFull = 5, "flow-table-full", "A required flow-table entry could not be inserted.";
    NatPortsExhausted = 6, "nat-ports-exhausted", "No port was free for a new nat flow.";
    NatUnknownFlow = 7, "nat-unknown-flow", "An open flow that is not in the nat table.";
    TtlExpired = 8, "ttl-expired",
        "TTL or hop limit expired. The sender is informed, from this node's address on the \
         incoming link.";
    NoRoute = 9, "no-route", "There is no route to the next hop, or its MAC address is unknown.";
    NoHeadroom = 10, "no-headroom", "No headroom for another header.";
    TooBig = 11, "too-big",
        "Longer than an IP packet can be once it is encapsulated, or than the MTU of the \
         path to the member. In the latter case the sender is informed.";
    Reset = 12, "reset", "Answered with a TCP reset.";
    Internal = 13, "internal", "The program and its maps disagree: a bug in steer.";
    DecapEcn = 14, "decap-ecn",
        "Congestion was marked on the outer header of a packet that cannot carry the mark \
         (RFC 6040 section 4.2).";
    Denied = 15, "denied", "From an address that the operator denies.";
    Residency = 16, "residency",
        "The only members that could take it are in regions that may not serve the service.";
    RateLimited = 17, "rate-limited", "A new flow above the rate limit of the service.";
    SourceLimited = 18, "source-limited", "A new flow above the rate limit of its source.";
    Shed = 19, "shed", "A new flow of a shed priority, which makes room for more important ones.";
    Takeover = 20, "takeover",
        "Dropped during the cut-over to another version of the program; the sender repeats \
         it.";
    MartianSource = 21, "martian-source",
        "From a source that no packet from a network can have (loopback, multicast, \
         broadcast, unspecified, reserved), or from its own destination.";
    WrongInterface = 22, "wrong-interface",
        "A backend's packet on another interface than that of the next hop to the backend.";
    BadChecksum = 23, "bad-checksum",
        "A TCP segment that would open a flow or be answered, and whose checksum is wrong \
         or, in a fragment, cannot be verified.";
}

impl DropReason {
    /// Length of the array of counters: above the largest number.
    pub const COUNT: u32 = 32;
}

const _: () = assert!(DropReason::ALL.len() < DropReason::COUNT as usize);
