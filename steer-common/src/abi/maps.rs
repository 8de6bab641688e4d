//! The maps: name, type, key, value, number of entries and flags of each in one row. The specifications in user
//! space and the statics of the programs are made of these rows: each macro here calls another one with
//! them. Types and constants in the rows are those of [`abi`](super).
//!
//! The kernel cuts names at 15 bytes.

/// `BPF_F_MMAPABLE`: the daemon maps the array into its memory (Linux 5.5).
pub const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, which tries require; entries take memory only while they exist.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY_PROG`, which the kernel sets on every devmap.
pub const READ_ONLY: u32 = 1 << 7;

/// Number of programs in [`PROGRAMS`](super::PROGRAMS).
pub const PROGRAM_COUNT: u32 = super::PROGRAMS.len() as u32;
/// Number of programs in [`TRACE_PROGRAMS`](super::TRACE_PROGRAMS).
pub const TRACE_PROGRAM_COUNT: u32 = super::TRACE_PROGRAMS.len() as u32;

/// Name of an array of bytes: layouts of the keys and values of the maps beside it. Created by the daemon,
/// and unused by programs.
pub const LAYOUT: &str = "LAYOUT";

/// Calls a macro with the rows of the maps that are pinned and outlive the daemon.
#[macro_export]
macro_rules! pinned_maps {
    ($callback:ident) => {
        $callback! {
            /// Array of one `Config`, mapped.
            CONFIG: Array<u32, Config>, 1, MAPPED;
            /// Array of `Service`, two banks, followed by two banks of class policies,
            /// mapped.
            SERVICES: Array<u32, Service>, 2 * (MAX_SERVICE_ENTRIES + MAX_CLASS_POLICIES), MAPPED;
            /// Trie of `ClassKey` to `ClassMatch`, two banks.
            CLASSES: LpmTrie<ClassKey, ClassMatch>, MAX_CLASS_PREFIXES, 0;
            /// Array of `DscpTable`, two banks, mapped.
            CLASS_DSCP: Array<u32, DscpTable>, 2 * MAX_DSCP_TABLES, MAPPED;
            /// Array of `u32` displacements, two banks, mapped.
            DISPLACEMENTS: Array<u32, u32>, 2 * MAX_DISPLACEMENTS, MAPPED;
            /// Array of `Slot`, mapped.
            SLOTS: Array<u32, Slot>, MAX_SLOTS, MAPPED;
            /// Array of `Member`, mapped.
            MEMBERS: Array<u32, Member>, MAX_MEMBERS, MAPPED;
            /// Array of `Address`, mapped.
            NAT_SOURCES: Array<u32, Address>, 2 * MAX_NAT_ADDRESSES, MAPPED;
            /// LRU hash of `FlowKey` to `FlowEntry`.
            FLOWS: LruHash<FlowKey, FlowEntry>, MAX_FLOWS, 0;
            /// Counterpart of `FLOWS` for flows of which only the SYN has been seen: a flood of SYNs
            /// evicts others of its kind, and no open flow.
            NEW_FLOWS: LruHash<FlowKey, FlowEntry>, MAX_NEW_FLOWS, 0;
            /// Hash of `FlowKey` (client to VIP) to `NatForward`.
            NAT_FORWARD: Hash<FlowKey, NatForward>, MAX_NAT_FLOWS, 0;
            /// Hash of `FlowKey` (backend to node) to `NatReverse`.
            NAT_REVERSE: Hash<FlowKey, NatReverse>, MAX_NAT_FLOWS, 0;
            /// Array of `UnassuredFlow`: one ring per CPU.
            UNASSURED_FLOWS: Array<u32, UnassuredFlow>, MAX_UNASSURED_FLOWS, 0;
            /// Per-CPU hash of member numbers to `LatencyBuckets`, with the measured members
            /// only.
            MEMBER_LATENCY: PerCpuHash<u32, LatencyBuckets>, MAX_MEMBERS, NO_PREALLOC;
            /// Array of `Signals`, by member, mapped.
            MEMBER_SIGNALS: Array<u32, Signals>, MAX_MEMBERS, MAPPED;
            /// LRU hash of `FragmentKey` to `FragmentEntry`.
            FRAGMENTS: LruHash<FragmentKey, FragmentEntry>, MAX_FRAGMENTED_PACKETS, 0;
            /// Array of programs for tail calls from the main one: see `FIRST_FRAGMENT`.
            PROGRAMS: ProgramArray<u32, u32>, PROGRAM_COUNT, 0;
            /// Trie of denied prefixes of clients' `Address`es.
            DENIED: LpmTrie<Address, u32>, MAX_DENIED_PREFIXES, 0;
            /// Array of `Admission` by the number of a service or class, mapped.
            ADMISSION: Array<u32, Admission>, MAX_SERVICE_ENTRIES, MAPPED;
            /// Array of `u64` by member: open flows under `nat` of members with a limit, mapped.
            IN_FLIGHT: Array<u32, u64>, MAX_MEMBERS, MAPPED;
            /// Array of `SourceLimit`, two banks, mapped.
            SOURCE_LIMITS: Array<u32, SourceLimit>, 2 * MAX_SOURCE_LIMITS, MAPPED;
            /// Hash of `CidKey` to `u32`: member of a QUIC server id.
            QUIC_SERVER_IDS: Hash<CidKey, u32>, MAX_SERVER_IDS, NO_PREALLOC;
            /// Array of `CidCipher`, by the first three bits of connection ids.
            CID_CIPHERS: Array<u32, CidCipher>, MAX_CID_CIPHERS, MAPPED;
            /// Hash of `LinkKey` to `IcmpSource`: this node's
            /// addresses by incoming link.
            ICMP_SOURCES: Hash<LinkKey, IcmpSource>, MAX_ICMP_SOURCES, NO_PREALLOC;
            /// LRU hash of `SourceKey` to `u64`: time at which the source's next new
            /// flow is due.
            LIMITED_SOURCES: LruHash<SourceKey, u64>, MAX_LIMITED_SOURCES, 0;
            /// Per-CPU array of `AdmissionDrops`, by the number of a service or class.
            ADMISSION_DROPS: PerCpuArray<u32, AdmissionDrops>, MAX_SERVICE_ENTRIES, 0;
            /// Per-CPU array of `MemberCounters`, by member.
            MEMBER_COUNTS: PerCpuArray<u32, MemberCounters>, MAX_MEMBERS, 0;
            /// Per-CPU array of `u64`, by drop reason.
            DROP_COUNTS: PerCpuArray<u32, u64>, DropReason::COUNT, 0;
            /// Array of `u64`, mapped: the node's MAC addresses at their
            /// `node_mac_index`.
            NODE_MACS: Array<u32, u64>, MAX_NODE_MACS, MAPPED;
            /// Array of `Interface`, mapped.
            INTERFACES: Array<u32, Interface>, MAX_INTERFACES, MAPPED;
            /// Hash of `RouterKey` to `ClientNextHop`: the path to the router
            /// that frames came from, or to the router that took over from it.
            ROUTERS: Hash<RouterKey, ClientNextHop>, MAX_ROUTERS, 0;
            /// Devmap hash of interfaces, by index.
            EGRESS_INTERFACES: DevMapHash<u32, u64>, MAX_EGRESS_INTERFACES, 0;
        }
    };
}

/// Calls a macro with the rows of the maps of a takeover.
#[macro_export]
macro_rules! cutover_maps {
    ($callback:ident) => {
        $callback! {
            /// Array of one `u64`, mapped, used by `CUTOVER_PROGRAM`: `CUTOVER_DONE`,
            /// or the nanosecond of the monotonic clock until which packets are held; after that they go to
            /// the previous programs.
            CUTOVER: Array<u32, u64>, 1, MAPPED;
            /// Array of programs: `PROGRAMS` of the previous version during a takeover.
            OLD_PROGRAMS: ProgramArray<u32, u32>, PROGRAM_COUNT, 0;
        }
    };
}

/// Calls a macro with the rows of the maps of the tracing programs.
#[macro_export]
macro_rules! trace_maps {
    ($callback:ident) => {
        $callback! {
            /// Array of one `TraceFilter`; like the next three only in the tracing
            /// programs.
            TRACE_FILTER: Array<u32, TraceFilter>, 1, 0;
            /// Per-CPU array of one `TraceState`.
            TRACE_STATE: PerCpuArray<u32, TraceState>, 1, 0;
            /// Ring of `TraceEvent`s.
            TRACE_EVENTS: RingBuf<u32, u32>, TRACE_RING, 0;
            /// Array of `TRACE_PROGRAMS`.
            TRACE_PROGRAMS: ProgramArray<u32, u32>, TRACE_PROGRAM_COUNT, 0;
        }
    };
}

/// Calls a macro with the rows of the maps of the decap program.
#[macro_export]
macro_rules! decap_maps {
    ($callback:ident) => {
        $callback! {
            /// Trie of prefixes of outer source `Address`es that the decap program
            /// accepts.
            DECAP_SOURCES: LpmTrie<Address, u32>, MAX_DECAP_SOURCES, 0;
            /// Array of one `u32`: the UDP port of GUE for the decap program.
            DECAP_PORT: Array<u32, u32>, 1, 0;
            /// Per-CPU array of `u64` of the decap program: decapsulated packets at 0, drops by their
            /// reason.
            DECAP_COUNTS: PerCpuArray<u32, u64>, DropReason::COUNT, 0;
        }
    };
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $kind:ident<$key:ty, $value:ty>, $entries:expr, $flags:expr;)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*
    };
}

pinned_maps!(names);
cutover_maps!(names);
trace_maps!(names);
decap_maps!(names);
