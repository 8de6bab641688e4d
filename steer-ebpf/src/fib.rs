//! The kernel's own routing, for next hops that the daemon has not resolved.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup, xdp_md,
    },
    helpers::generated::bpf_fib_lookup,
};
use steer_common::{
    abi::{Address, Macs, Member},
    frame::MAX_LAUNDERED_BYTES,
    tables::NextHop,
    wire::Packet,
};

use crate::maps::SCRATCH;

/// Address families of sockets.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const _: () = assert!(size_of::<FibLookup>() <= MAX_LAUNDERED_BYTES);

/// Queries the kernel's routes for the next hop to a member. The query is not on the stack: it is
/// rare, and the packet's path needs all of the stack.
#[inline(always)]
pub(crate) fn fib_lookup(ctx: *mut xdp_md, packet: &Packet, member: &Member) -> Option<NextHop> {
    let (found, lookup) = query(ctx, member.address, member.family, packet.interface);
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return None;
    }
    let [d, s] = [halves(&lookup.dmac), halves(&lookup.smac)];
    Some(NextHop {
        macs: Macs::from_words(
            d[0] | d[1] << 16 | d[2] << 32 | s[0] << 48,
            (s[1] | s[2] << 16) as u32,
        ),
        interface: lookup.ifindex,
        vlan: 0,
        mtu: 0,
    })
}

/// Returns whether the kernel does not forward packets for an address from an interface.
#[inline(always)]
pub(crate) fn is_local(ctx: *mut xdp_md, address: Address, family: u8, interface: u32) -> bool {
    let (found, _) = query(ctx, address, family, interface);
    found == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
        || found == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// Queries the kernel's routing for a packet to an address from an interface.
#[inline(always)]
fn query<'a>(
    ctx: *mut xdp_md,
    address: Address,
    family: u8,
    interface: u32,
) -> (i64, &'a mut FibLookup) {
    let lookup = SCRATCH.first().cast::<FibLookup>();
    // SAFETY: a per-CPU value that is large and aligned enough, and a program is not interrupted by another
    // of its kind. Made of integers, of which 0 is a value.
    let lookup = unsafe {
        lookup.write(core::mem::zeroed());
        &mut *lookup
    };
    lookup.ifindex = interface;
    if family == 6 {
        lookup.family = AF_INET6;
        let [high, low] = address.words();
        lookup.__bindgen_anon_4.ipv6_dst = [
            high as u32,
            (high >> 32) as u32,
            low as u32,
            (low >> 32) as u32,
        ];
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_4.ipv4_dst = address.v4();
    }
    let len = size_of::<FibLookup>() as i32;
    // SAFETY: the context is valid, and the argument has this length.
    let found = unsafe { bpf_fib_lookup(ctx.cast(), lookup, len, 0) };
    (found, lookup)
}

/// Returns a MAC address as two-byte halves, in the memory order of this target. They are read as
/// such because they may lie at any even address.
#[inline(always)]
fn halves(mac: &[u8; 6]) -> [u64; 3] {
    let start = mac.as_ptr().cast::<u16>();
    // SAFETY: inside the six bytes, at an even address in `bpf_fib_lookup`.
    [0, 1, 2].map(|i| u64::from(unsafe { start.add(i).read_volatile() }))
}
