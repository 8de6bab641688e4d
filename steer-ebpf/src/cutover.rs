//! Entry program during a takeover: one word decides for all interfaces where packets go.

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_ktime_get_ns, macros::xdp, programs::XdpContext,
};
use steer_common::{
    abi::{CUTOVER_DONE, MAIN},
    programs::cutover,
    verdict::DropReason,
};

use crate::{Input, dropped, finish, maps};

/// Sends packets to the previous programs, or to those of this version; in between it drops steered
/// packets, for a limited time.
#[xdp]
#[inline(always)]
pub fn steer_cutover(ctx: XdpContext) -> u32 {
    let Some(word) = maps::CUTOVER.get_ptr(0) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: a word of the map, which the daemon writes as a whole.
    let until = unsafe { word.read_volatile() };
    if until != CUTOVER_DONE {
        // SAFETY: the helper takes nothing.
        if unsafe { bpf_ktime_get_ns() } < until {
            let Some(mut input) = Input::<true>::new(&ctx) else {
                return xdp_action::XDP_PASS;
            };
            let outcome = cutover(&mut input.frame, &input.tables);
            return finish(&ctx, outcome, input.interface);
        }
        // SAFETY: the array holds only programs of the other version, which see an unchanged
        // packet.
        unsafe { maps::OLD_PROGRAMS.tail_call(&ctx, MAIN) };
        // Those programs no longer exist.
    }
    // SAFETY: the array holds programs of this object only.
    unsafe { maps::PROGRAMS.tail_call(&ctx, MAIN) };
    dropped(DropReason::Internal as u32)
}
