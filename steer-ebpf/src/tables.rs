//! [`Tables`] over the maps.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, xdp_md},
    helpers::{
        bpf_get_smp_processor_id,
        generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    },
    maps::lpm_trie::Key,
    programs::XdpContext,
};
use steer_common::{
    abi::{
        self, Address, Admission, Back, CidCipher, CidKey, ClassKey, ClassMatch, Config, FlowEntry,
        FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, LinkKey, Member, NatForward,
        NatReverse, Opening, RouterKey, STAMP_SHIFT, Service, Signal, Slot, SourceKey, SourceLimit,
        TICK_SHIFT, Track, age, bucket,
    },
    tables::{Added, NextHop, Step, Tables},
    verdict::DropReason,
    wire::Packet,
};

use crate::{
    maps::{
        ADMISSION, ANSWERS, CID_CIPHERS, CIDS, CLASS_DSCP, CLASSES, CONFIG, DENIED, DISPLACEMENTS,
        DRAFT, DROP_COUNTS, FLOWS, FRAGMENTS, ICMP_SOURCES, IN_FLIGHT, INTERFACES, LIMITS,
        MEASURED, MEMBER_COUNTS, MEMBERS, NAT_FORWARD, NAT_REVERSE, NAT_SOURCES, NEW_FLOWS,
        NEXT_OPENING, OPENINGS, OWN_MACS, PACKET, REFUSED, ROUTERS, SERVICES, SIGNALS, SLOTS,
        SOURCES,
    },
    packet::{self, always},
    route, trace,
};

/// Offsets of the bytes that the kernel writes in a slot.
const TRACK: usize = core::mem::offset_of!(Slot, track);
const SEEN: usize = core::mem::offset_of!(Slot, seen);

/// `EEXIST` of errno.h, negative as helpers return it.
const EEXIST: i32 = -17;

/// ICMP errors that each CPU may send within [`ANSWERS_TICKS`]: about a thousand a second.
const ANSWERS_MAX: u32 = 256;
const ANSWERS_TICKS: u32 = 256;

/// The real maps. `MERGES` is [`Tables::MERGES_PATHS`].
pub(crate) struct KernelTables<const MERGES: bool> {
    ctx: *mut xdp_md,
    /// Looked up once for each packet.
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

    #[inline(always)]
    fn mark(&self, index: u32, offset: usize, value: u8) {
        if let Some(slot) = SLOTS.get_ptr_mut(index) {
            // SAFETY: inside the slot. A byte store, so that it cannot undo what the daemon does to
            // the rest of the word.
            unsafe { slot.cast::<u8>().add(offset).write_volatile(value) };
        }
    }
}

/// Counts a drop by the number of its reason.
#[inline(always)]
pub(crate) fn count_drop(reason: u32) {
    if let Some(count) = DROP_COUNTS.get_ptr_mut(reason) {
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        unsafe { *count += 1 };
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
    fn now_ms(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
    }

    #[inline(always)]
    fn stamp(&self) -> u16 {
        // SAFETY: the helper takes nothing. The verifier makes a load of it.
        (unsafe { bpf_jiffies64() } >> STAMP_SHIFT) as u16
    }

    #[inline(always)]
    fn keep_packet(&self, packet: &Packet) {
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        unsafe { *always(PACKET.get_ptr_mut(0)) = MaybeUninit::new(*packet) };
    }

    #[inline(always)]
    fn kept_packet(&self) -> Packet {
        // SAFETY: as above; the program before has written it.
        unsafe { (*always(PACKET.get_ptr_mut(0))).assume_init() }.bounded()
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
        SERVICES.get(2 * abi::SERVICES + u32::from(index))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        let word = SLOTS.get_ptr(index)?;
        // SAFETY: inside the map. One load of the whole word, which the daemon writes atomically.
        Some(Slot::from_bits(unsafe { word.read_volatile() }))
    }

    #[inline(always)]
    fn mark_seen(&self, index: u32) {
        self.mark(index, SEEN, 1);
    }

    #[inline(always)]
    fn mark_track(&self, index: u32) {
        self.mark(index, TRACK, Track::Some as u8);
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
    fn remember(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        FLOWS.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn forget(&self, key: &FlowKey) {
        // An entry that is gone already is as good.
        let _ = FLOWS.remove(*key);
    }

    #[inline(always)]
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        // SAFETY: an entry of the map, copied.
        NEW_FLOWS.get_ptr(*key).map(|entry| unsafe { *entry })
    }

    #[inline(always)]
    fn remember_new(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        NEW_FLOWS.insert(*key, entry, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn forget_new(&self, key: &FlowKey) {
        // As in `forget`.
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
        // An entry that is gone already is as good.
        let _ = NAT_FORWARD.remove(*key);
    }

    #[inline(always)]
    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> Added {
        match NAT_REVERSE.insert(*key, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => Added::Yes,
            Err(EEXIST) => Added::Taken,
            Err(_) => Added::Full,
        }
    }

    #[inline(always)]
    fn with_opening(&self, len: u32, f: impl FnOnce(&mut Opening)) {
        let Some(next) = NEXT_OPENING.get_ptr_mut(0).filter(|_| len > 0) else {
            return;
        };
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        let next = unsafe { &mut *next };
        let place = if *next < len { *next } else { 0 };
        *next = place + 1;
        // SAFETY: the helper takes nothing.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        if let Some(opening) = OPENINGS.get_ptr_mut(cpu.wrapping_mul(len).wrapping_add(place)) {
            // SAFETY: an element of the map, in the part of it that is this CPU's.
            f(unsafe { &mut *opening });
        }
    }

    #[inline(always)]
    fn with_draft<R>(&self, f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R) -> Option<R> {
        let draft = DRAFT.get_ptr_mut(0)?;
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        let draft = unsafe { &mut *draft };
        Some(f(&mut draft.0, &mut draft.1))
    }

    #[inline(always)]
    fn now_fine(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn measure(&self, id: u16, measure: u8, ns: u64) {
        let Some(measured) = MEASURED.get_ptr_mut(u32::from(id)) else {
            return;
        };
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        let measured = unsafe { &mut *measured };
        if let Some(histogram) = measured.0.get_mut(usize::from(measure & 3))
            && let Some(count) = histogram.get_mut(bucket(ns) as usize)
        {
            *count = count.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn signal(&self, id: u16, signal: Signal) {
        let Some(signals) = SIGNALS.get_ptr_mut(u32::from(id)) else {
            return;
        };
        // SAFETY: a field of an element, all of which are of this type, one for each signal.
        let count = unsafe { signals.cast::<u64>().add(signal as usize) };
        // SAFETY: adds 1 to an aligned word of the map, which other CPUs add to and the daemon reads.
        unsafe {
            asm!(
                "lock *(u64 *)({count} + 0) += {one}",
                count = in(reg) count,
                one = in(reg) 1_u64,
                options(nostack)
            );
        }
    }

    #[inline(always)]
    fn remove_reverse(&self, key: &FlowKey) {
        // As in `remove_forward`.
        let _ = NAT_REVERSE.remove(*key);
    }

    #[inline(always)]
    fn cid_member(&self, key: &CidKey) -> Option<u16> {
        // SAFETY: an entry of the map, copied.
        CIDS.get_ptr(key).map(|member| unsafe { *member } as u16)
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
    fn now_ns(&self) -> u64 {
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
        LIMITS.get(u32::from(index))
    }

    #[inline(always)]
    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R> {
        // SAFETY: as in `with_admission`.
        SOURCES.get_ptr_mut(key).map(|due| f(unsafe { &mut *due }))
    }

    #[inline(always)]
    fn set_source(&self, key: &SourceKey, due: u64) {
        // One that cannot be noted is let in.
        let _ = SOURCES.insert(key, due, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn in_flight(&self, id: u16) -> i64 {
        let count = IN_FLIGHT.get_ptr(u32::from(id));
        // SAFETY: inside the map. One load of the whole word, which others add to.
        count.map_or(0, |count| unsafe { count.read_volatile() } as i64)
    }

    #[inline(always)]
    fn add_in_flight(&self, id: u16, by: i64) {
        let Some(count) = IN_FLIGHT.get_ptr_mut(u32::from(id)) else {
            return;
        };
        // SAFETY: adds to an aligned word of the map, which other CPUs and the daemon add to.
        unsafe {
            asm!(
                "lock *(u64 *)({count} + 0) += {by}",
                count = in(reg) count,
                by = in(reg) by,
                options(nostack)
            );
        }
    }

    #[inline(always)]
    fn count_refusal(&self, policy: u16, reason: DropReason) {
        if let Some(refusals) = REFUSED.get_ptr_mut(u32::from(policy)) {
            // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
            unsafe { (*refusals).count(reason) };
        }
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
    fn may_answer(&self) -> bool {
        let Some(answers) = ANSWERS.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        let [since, count] = unsafe { &mut *answers };
        let now = self.now_ms();
        if age(now, *since) >= ANSWERS_TICKS {
            *since = now;
            *count = 0;
        }
        *count += 1;
        *count <= ANSWERS_MAX
    }

    #[inline(always)]
    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource> {
        // SAFETY: an entry of the map, copied.
        ICMP_SOURCES.get_ptr(link).map(|source| unsafe { *source })
    }

    #[inline(always)]
    fn route(&self, packet: &Packet, member: &Member) -> Option<NextHop> {
        route::route(self.ctx, packet, member)
    }

    #[inline(always)]
    fn own_mac(&self, place: u32) -> Option<u64> {
        OWN_MACS.get(place).copied()
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        INTERFACES
            .get(index % abi::INTERFACES)
            .filter(|known| known.index == index)
    }

    #[inline(always)]
    fn router(&self, key: &RouterKey) -> Option<Back> {
        // SAFETY: an entry of the map, copied.
        ROUTERS.get_ptr(*key).map(|way| unsafe { *way })
    }

    #[inline(always)]
    fn keeps(&self, address: Address, family: u8, interface: u32) -> bool {
        route::keeps(self.ctx, address, family, interface)
    }

    #[inline(always)]
    fn count_member(&self, id: u16, bytes: u64, begins: u8) {
        self.trace.member(id);
        if let Some(counters) = MEMBER_COUNTS.get_ptr_mut(u32::from(id)) {
            // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
            unsafe { (*counters).count(bytes, begins) };
        }
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        self.trace.answered(reason);
        count_drop(reason as u32);
    }

    #[inline(always)]
    fn see(&self, key: &FlowKey) {
        self.trace.see(key);
    }

    #[inline(always)]
    fn note(&self, step: Step) {
        self.trace.note(step);
    }

    #[inline(always)]
    fn count_reply(&self, id: u16, content: u64) {
        self.trace.answer(id);
        if let Some(counters) = MEMBER_COUNTS.get_ptr_mut(u32::from(id)) {
            // SAFETY: as in `count_member`.
            unsafe { (*counters).count_reply(content) };
        }
    }
}
