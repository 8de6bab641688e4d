//! Benchmark programs: a wrapper that runs any XDP program on a fresh packet each time, and bare
//! programs for comparison.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

mod atomic;
mod packet;
mod per_cpu;
mod runtime;
mod maps {
    //! Every map of the programs.

    use aya_ebpf::{
        bindings::BPF_F_NO_PREALLOC,
        macros::map,
        maps::{Array, LpmTrie, LruHashMap, ProgramArray},
    };
    use steer_common::{
        abi::{Address, FlowEntry, FlowKey, MAX_NAT_FLOWS, NatForward, bench::Run},
        frame::MAX_LAUNDERED_BYTES,
    };

    use crate::per_cpu::PerCpu;

    #[map]
    pub(crate) static RUN: Array<Run> = Array::with_max_entries(1, 0);

    /// Number of packets that came back as expected.
    #[map]
    pub(crate) static SUNK: PerCpu<u64> = PerCpu::with_max_entries(1, 0);

    #[map]
    pub(crate) static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

    #[map]
    pub(crate) static BENCH_LRU: LruHashMap<FlowKey, FlowEntry> =
        LruHashMap::with_max_entries(1 << 21, 0);

    /// Table with entries of the size of `nat` entries.
    #[map]
    pub(crate) static BENCH_NEW: LruHashMap<FlowKey, NatForward> =
        LruHashMap::with_max_entries(MAX_NAT_FLOWS, 0);

    #[map]
    pub(crate) static BENCH_ARRAY: Array<u64> = Array::with_max_entries(1 << 16, 0);

    #[map]
    pub(crate) static BENCH_LPM: LpmTrie<Address, u32> =
        LpmTrie::with_max_entries(1 << 10, BPF_F_NO_PREALLOC);

    #[map]
    pub(crate) static SCRATCH: PerCpu<[u64; MAX_LAUNDERED_BYTES / 8]> =
        PerCpu::with_max_entries(1, 0);
}

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_ktime_get_ns, macros::xdp, maps::lpm_trie::Key,
    programs::XdpContext,
};
use steer_common::{
    abi::{
        NatForward,
        bench::{Run, WINDOW},
    },
    frame::Frame,
    wire::{IPV4_HEADER, Packet, parse_v4},
};

use crate::{
    maps::{BENCH_ARRAY, BENCH_LPM, BENCH_LRU, BENCH_NEW, PROGRAMS, RUN, SUNK},
    packet::XdpFrame,
};

/// Undoes the last run, counts whether its result was expected, and runs the program under test on
/// the packet of the next flow.
#[xdp]
pub fn bench(ctx: XdpContext) -> u32 {
    let Some(run) = RUN.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the benchmark runs on one CPU, and nothing else writes the map meanwhile.
    let run = unsafe { &mut *run };
    let mut frame = XdpFrame::new(&ctx);
    if next(&mut frame, run).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // The packet leaves the store buffer: a load wider than the stores before it would wait for them, which
    // packets of a device never cause. A locked instruction is a full barrier on x86.
    // SAFETY: a word of a map.
    unsafe { atomic::add(&raw mut run.fence, 1) };
    // SAFETY: the only entry, which the benchmark has set.
    unsafe { PROGRAMS.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn next<F: Frame>(frame: &mut F, run: &mut Run) -> Option<()> {
    let grown = frame.len().wrapping_sub(run.len as usize);
    let at = frame.launder(u64::from(run.check_at)) as usize & 0x3f;
    let changed = frame.load::<u32>(at)? != run.check;
    let as_wanted = grown == run.growth as usize && changed == (run.change != 0);
    run.good += u64::from(as_wanted);
    if grown > 0 && grown < 128 {
        frame.shrink_head(grown)?;
    }
    fill(frame, run)
}

/// Writes the packet of the next flow.
#[inline(always)]
fn fill<F: Frame>(frame: &mut F, run: &mut Run) -> Option<()> {
    run.runs += 1;
    for (index, word) in run.template.iter().enumerate() {
        frame.store(index * 8, *word)?;
    }
    // An odd factor visits each flow once in a round, far from the one before.
    let turn = run.first.wrapping_add(run.runs as u32);
    let flow = turn.wrapping_mul(0x9e37_79b1) & run.flow_mask;
    frame.store(28, (flow as u16).to_be())?;
    frame.store(34, ((flow >> 16) as u16 + 1024).to_be())
}

/// Sends the packet of the next flow: with live frames, a generator.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let Some(run) = RUN.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: one generator runs at a time, and nothing else writes the map meanwhile.
    let run = unsafe { &mut *run };
    if run.runs.is_multiple_of(WINDOW) {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        let spent = now.wrapping_sub(run.looked);
        if run.looked > 0 && (run.window == 0 || spent < run.window) {
            run.window = spent;
        }
        run.looked = now;
    }
    match fill(&mut XdpFrame::new(&ctx), run) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts the packets that come back, and drops them.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let Some(run) = RUN.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let grown = XdpFrame::new(&ctx).len().wrapping_sub(run.len as usize);
    SUNK.with(0, |sunk| *sunk += u64::from(grown == run.growth as usize));
    xdp_action::XDP_DROP
}

/// Does nothing: the cost of the wrapper.
#[xdp]
pub fn null(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Exchanges the MAC addresses.
#[xdp]
pub fn swap(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    match swap_macs(&mut frame) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn swap_macs<F: Frame>(frame: &mut F) -> Option<()> {
    let macs: [u16; 6] = frame.load(0)?;
    let [a, b, c, d, e, f] = macs;
    frame.store(0, [d, e, f, a, b, c])
}

/// Encapsulates an IPv4 packet in a constant header, except for length and checksum, in the fewest instructions.
#[xdp]
pub fn encap(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    match wrap(&mut frame) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Ethernet header: MAC addresses and type.
const OUTER_ETHERNET: [u8; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0];
/// Outer header without length and checksum: no options, "don't fragment", 64 hops, IP in IP.
const OUTER_IP: [u8; IPV4_HEADER] = [
    0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6,
];
/// Sum of the 16-bit words of that header in memory's order, folded.
const OUTER_SUM: u32 = {
    let (mut sum, mut at) = (0, 0);
    while at < IPV4_HEADER {
        sum += u16::from_ne_bytes([OUTER_IP[at], OUTER_IP[at + 1]]) as u32;
        at += 2;
    }
    (sum & 0xffff) + (sum >> 16)
};

/// Returns 8 bytes of the outer headers as a word in memory's order.
const fn outer_word(at: usize) -> u64 {
    let (mut bytes, mut index) = ([0; 8], 0);
    while index < 8 {
        let place = at + index;
        bytes[index] = if place < 14 {
            OUTER_ETHERNET[place]
        } else {
            OUTER_IP[place - 14]
        };
        index += 1;
    }
    u64::from_ne_bytes(bytes)
}

#[inline(always)]
fn wrap<F: Frame>(frame: &mut F) -> Option<()> {
    const WORDS: [u64; 4] = [outer_word(0), outer_word(8), outer_word(16), outer_word(24)];
    if frame.load::<u16>(12)? != 0x0800_u16.to_be() {
        return None;
    }
    let inner = u16::from_be(frame.load(16)?);
    frame.grow_head(IPV4_HEADER)?;
    let total = (inner + IPV4_HEADER as u16).to_be();
    let sum = OUTER_SUM + u32::from(total);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    // Length and checksum are the first bytes of their words; the last two bytes of the destination remain.
    frame.store(
        0,
        [
            WORDS[0],
            WORDS[1],
            WORDS[2] | u64::from(total),
            WORDS[3] | u64::from(checksum),
        ],
    )?;
    frame.store(32, u16::from_ne_bytes([OUTER_IP[18], OUTER_IP[19]]))
}

/// Parses the packet and looks its flow up in an array.
#[xdp]
pub fn array(ctx: XdpContext) -> u32 {
    parsed(&ctx, |packet| {
        BENCH_ARRAY.get(u32::from(packet.key.source_port)).is_some()
    })
}

/// Parses the packet and looks its source up in a trie of prefixes.
#[xdp]
pub fn lpm(ctx: XdpContext) -> u32 {
    parsed(&ctx, |packet| {
        BENCH_LPM.get(Key::new(128, packet.key.source)).is_some()
    })
}

/// Parses the packet and looks its flow up in an LRU hash.
#[xdp]
pub fn lru(ctx: XdpContext) -> u32 {
    parsed(&ctx, |packet| BENCH_LRU.get_ptr(packet.key).is_some())
}

/// Parses the packet and puts its flow into an LRU hash.
#[xdp]
pub fn lru_insert(ctx: XdpContext) -> u32 {
    parsed(&ctx, |packet| {
        let entry = NatForward::default();
        BENCH_NEW.insert(packet.key, entry, 0).is_ok()
    })
}

/// Parses the packet, calls a look-up function, and sends the packet back.
#[inline(always)]
fn parsed(ctx: &XdpContext, look_up: impl FnOnce(&Packet) -> bool) -> u32 {
    let mut frame = XdpFrame::new(ctx);
    let Some(packet) = parse_v4(&frame, 1) else {
        return xdp_action::XDP_ABORTED;
    };
    if !look_up(&packet) {
        return xdp_action::XDP_ABORTED;
    }
    match swap_macs(&mut frame) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}
