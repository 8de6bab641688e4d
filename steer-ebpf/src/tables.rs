//! [`Tables`] over the maps.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, xdp_md},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    maps::lpm_trie::Key,
    programs::XdpContext,
};
use steer_common::{
    abi::{
        self, Address, Admission, COARSE_SHIFT, CidCipher, CidKey, ClassKey, ClassMatch,
        ClientNextHop, Config, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource,
        Interface, LinkKey, Member, NatForward, NatReverse, RouterKey, Service, Signal, Slot,
        SourceKey, SourceLimit, TICK_SHIFT, UnassuredFlow,
    },
    tables::{InsertResult, NextHop, Step, Tables},
    verdict::DropReason,
    wire::Packet,
};

use crate::{
    atomic, counters, fib, icmp_budget,
    maps::{
        ADMISSION, ADMISSION_DROPS, CID_CIPHERS, CLASS_DSCP, CLASSES, CONFIG, DENIED,
        DISPLACEMENTS, FLOWS, FRAGMENTS, ICMP_SOURCES, IN_FLIGHT, INTERFACES, LIMITED_SOURCES,
        MEMBER_COUNTS, MEMBERS, NAT_FORWARD, NAT_REVERSE, NAT_SCRATCH, NAT_SOURCES, NEW_FLOWS,
        NODE_MACS, PACKET, QUIC_SERVER_IDS, ROUTERS, SERVICES, SOURCE_LIMITS,
    },
    packet, slots, trace, unassured,
};

/// `EEXIST` of errno.h, negative as helpers return it.
const EEXIST: i32 = -17;

/// The real maps. `MERGES` is [`Tables::MERGES_PATHS`].
pub(crate) struct KernelTables<const MERGES: bool> {
    ctx: *mut xdp_md,
    /// Settings, looked up once for each packet.
    config: &'static Config,
    trace: trace::Recorder,
}

impl<const MERGES: bool> KernelTables<MERGES> {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Option<Self> {
        Some(Self {
            ctx: ctx.ctx,
            config: CONFIG.get(0)?,
            trace: trace::Recorder::new()?,
        })
    }
}

impl<const MERGES: bool> Tables for KernelTables<MERGES> {
    const MERGES_PATHS: bool = MERGES;

    #[inline(always)]
    fn launder(&self, value: u64) -> u64 {
        if MERGES {
            packet::launder(value)
        } else {
            value
        }
    }

    #[inline(always)]
    fn now_ticks(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
    }

    #[inline(always)]
    fn coarse_tick(&self) -> u16 {
        // SAFETY: the helper takes nothing. The verifier makes a load of it.
        (unsafe { bpf_jiffies64() } >> COARSE_SHIFT) as u16
    }

    #[inline(always)]
    fn store_packet(&self, packet: &Packet) {
        PACKET.with_first(|stored| *stored = MaybeUninit::new(*packet));
    }

    #[inline(always)]
    fn stored_packet(&self) -> Packet {
        // SAFETY: this program or a previous one has written it.
        PACKET.with_first(|stored| unsafe { stored.assume_init() }.bounded())
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        Some(self.config)
    }

    #[inline(always)]
    fn displacement(&self, index: u32) -> Option<u32> {
        DISPLACEMENTS.get(index).copied()
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<&Service> {
        SERVICES.get(index)
    }

    #[inline(always)]
    fn class(&self, key: &ClassKey) -> Option<ClassMatch> {
        let key = Key::new(ClassKey::SCOPE_BITS + 128, *key);
        CLASSES.get(key).copied()
    }

    #[inline(always)]
    fn class_by_dscp(&self, table: u16, dscp: u8) -> Option<u16> {
        let table = CLASS_DSCP.get(u32::from(table))?;
        table.0.get(usize::from(dscp)).copied()
    }

    #[inline(always)]
    fn policy(&self, index: u16) -> Option<&Service> {
        SERVICES.get(2 * abi::MAX_SERVICE_ENTRIES + u32::from(index))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        slots::load(index)
    }

    #[inline(always)]
    fn mark_seen(&self, index: u32) {
        slots::mark_seen(index);
    }

    #[inline(always)]
    fn mark_track(&self, index: u32) {
        slots::mark_track(index);
    }

    #[inline(always)]
    fn member(&self, id: u16) -> Option<&Member> {
        MEMBERS.get(u32::from(id))
    }

    #[inline(always)]
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowEntry) -> R) -> Option<R> {
        // SAFETY: an entry of the map; CPUs that share a flow write whole fields of the same meaning.
        FLOWS.get_ptr_mut(*key).map(|e| f(unsafe { &mut *e }))
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        FLOWS.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // A missing entry is no error.
        let _ = FLOWS.remove(*key);
    }

    #[inline(always)]
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        // SAFETY: an entry of the map, copied.
        NEW_FLOWS.get_ptr(*key).map(|entry| unsafe { *entry })
    }

    #[inline(always)]
    fn insert_new_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        NEW_FLOWS.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn remove_new_flow(&self, key: &FlowKey) {
        // As in `remove_flow`.
        let _ = NEW_FLOWS.remove(*key);
    }

    #[inline(always)]
    fn nat_source(&self, index: u32) -> Option<Address> {
        NAT_SOURCES.get(index).copied()
    }

    #[inline(always)]
    fn with_forward<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatForward) -> R) -> Option<R> {
        // SAFETY: as in `with_flow`.
        NAT_FORWARD.get_ptr_mut(*key).map(|e| f(unsafe { &mut *e }))
    }

    #[inline(always)]
    fn with_reverse<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatReverse) -> R) -> Option<R> {
        // SAFETY: as in `with_flow`.
        NAT_REVERSE.get_ptr_mut(*key).map(|e| f(unsafe { &mut *e }))
    }

    #[inline(always)]
    fn set_forward(&self, key: &FlowKey, entry: &NatForward) -> bool {
        NAT_FORWARD.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn remove_forward(&self, key: &FlowKey) {
        // A missing entry is no error.
        let _ = NAT_FORWARD.remove(*key);
    }

    #[inline(always)]
    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> InsertResult {
        match NAT_REVERSE.insert(*key, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => InsertResult::Inserted,
            Err(EEXIST) => InsertResult::Exists,
            Err(_) => InsertResult::Full,
        }
    }

    #[inline(always)]
    fn with_unassured(&self, len: u32, f: impl FnOnce(&mut UnassuredFlow)) {
        if let Some(flow) = unassured::next(len) {
            // SAFETY: an element of the map, in the part of it that is this CPU's.
            f(unsafe { &mut *flow });
        }
    }

    #[inline(always)]
    fn with_nat_scratch<R>(
        &self,
        f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R,
    ) -> Option<R> {
        NAT_SCRATCH.with(0, |(forward, reverse)| f(forward, reverse))
    }

    #[inline(always)]
    fn now_precise_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn record_latency(&self, id: u16, measure: u8, ns: u64) {
        counters::record_latency(id, measure, ns);
    }

    #[inline(always)]
    fn count_signal(&self, id: u16, signal: Signal) {
        counters::count_signal(id, signal);
    }

    #[inline(always)]
    fn remove_reverse(&self, key: &FlowKey) {
        // As in `remove_forward`.
        let _ = NAT_REVERSE.remove(*key);
    }

    #[inline(always)]
    fn cid_member(&self, key: &CidKey) -> Option<u16> {
        // SAFETY: an entry of the map, copied.
        QUIC_SERVER_IDS
            .get_ptr(key)
            .map(|member| unsafe { *member } as u16)
    }

    #[inline(always)]
    fn cid_cipher(&self, rotation: u8) -> Option<&CidCipher> {
        CID_CIPHERS.get(u32::from(rotation))
    }

    #[inline(always)]
    fn is_denied(&self, client: &Address) -> bool {
        DENIED.get(Key::new(128, *client)).is_some()
    }

    #[inline(always)]
    fn now_coarse_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn with_admission<R>(&self, policy: u16, f: impl FnOnce(&mut Admission) -> R) -> Option<R> {
        // SAFETY: an element of the map; CPUs that write it at the same time write whole words.
        ADMISSION
            .get_ptr_mut(u32::from(policy))
            .map(|admission| f(unsafe { &mut *admission }))
    }

    #[inline(always)]
    fn source_limit(&self, index: u16) -> Option<&SourceLimit> {
        SOURCE_LIMITS.get(u32::from(index))
    }

    #[inline(always)]
    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R> {
        // SAFETY: as in `with_admission`.
        LIMITED_SOURCES
            .get_ptr_mut(key)
            .map(|due| f(unsafe { &mut *due }))
    }

    #[inline(always)]
    fn set_source(&self, key: &SourceKey, due: u64) {
        // A source that cannot be stored is admitted.
        let _ = LIMITED_SOURCES.insert(key, due, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn in_flight(&self, id: u16) -> i64 {
        let count = IN_FLIGHT.get_ptr(u32::from(id));
        // SAFETY: inside the map. One load of the whole word, which others add to.
        count.map_or(0, |count| unsafe { count.read_volatile() } as i64)
    }

    #[inline(always)]
    fn add_in_flight(&self, id: u16, by: i64) {
        if let Some(count) = IN_FLIGHT.get_ptr_mut(u32::from(id)) {
            // SAFETY: a word of the map.
            unsafe { atomic::add(count, by as u64) };
        }
    }

    #[inline(always)]
    fn count_refusal(&self, policy: u16, reason: DropReason) {
        ADMISSION_DROPS.with(u32::from(policy), |drops| drops.count(reason));
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        // SAFETY: an entry of the map, copied.
        FRAGMENTS.get_ptr(*key).map(|entry| unsafe { *entry })
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        FRAGMENTS.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn may_send_icmp(&self) -> bool {
        icmp_budget::take(self.now_ticks())
    }

    #[inline(always)]
    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource> {
        // SAFETY: an entry of the map, copied.
        ICMP_SOURCES.get_ptr(link).map(|source| unsafe { *source })
    }

    #[inline(always)]
    fn fib_lookup(&self, packet: &Packet, member: &Member) -> Option<NextHop> {
        fib::fib_lookup(self.ctx, packet, member)
    }

    #[inline(always)]
    fn node_mac(&self, position: u32) -> Option<u64> {
        NODE_MACS.get(position).copied()
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        INTERFACES
            .get(index % abi::MAX_INTERFACES)
            .filter(|known| known.index == index)
    }

    #[inline(always)]
    fn router(&self, key: &RouterKey) -> Option<ClientNextHop> {
        // SAFETY: an entry of the map, copied.
        ROUTERS.get_ptr(*key).map(|hop| unsafe { *hop })
    }

    #[inline(always)]
    fn is_local(&self, address: Address, family: u8, interface: u32) -> bool {
        fib::is_local(self.ctx, address, family, interface)
    }

    #[inline(always)]
    fn count_member(&self, id: u16, bytes: u64, begins: u8) {
        self.trace.member(id);
        MEMBER_COUNTS.with(u32::from(id), |counters| counters.count(bytes, begins));
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        self.trace.answered(reason);
        counters::count_drop(reason as u32);
    }

    #[inline(always)]
    fn trace_flow(&self, key: &FlowKey) {
        self.trace.trace_flow(key);
    }

    #[inline(always)]
    fn trace_step(&self, step: Step) {
        self.trace.trace_step(step);
    }

    #[inline(always)]
    fn count_reply(&self, id: u16, content: u64) {
        self.trace.answer(id);
        MEMBER_COUNTS.with(u32::from(id), |counters| counters.count_reply(content));
    }
}
