//! Recorder with tracing: emits events about packets to a ring.
//!
//! Packets come to [`steer_trace`] first, which leaves those that do not match to the usual
//! programs. Findings about the others are written into a per-CPU value by whichever program makes
//! them; the last one leaves the rest to [`steer_trace_emit`]. Nothing here is a function call: the
//! largest programs leave no room for one on the stack.

use core::arch::asm;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    },
    macros::xdp,
    programs::XdpContext,
};
use steer_common::{
    abi::{
        FlowKey, MAIN, TRACE_ANY, TRACE_BYTES, TRACE_EMIT, TRACE_MAIN, TraceEvent, TraceFilter,
        TraceState, TraceVerdict, trace_steps,
    },
    tables::Step,
    verdict::DropReason,
    wire::{is_v6, parse_v4, parse_v6},
};

use crate::{
    log,
    maps::{
        MEMBERS, NAT_REVERSE, PROGRAMS, TRACE_EVENTS, TRACE_FILTER, TRACE_PROGRAMS, TRACE_STATE,
    },
    packet::XdpFrame,
};

/// Starts the trace of a packet. A packet that does not match goes to the usual programs from here
/// on.
#[xdp]
#[inline(always)]
pub fn steer_trace(ctx: XdpContext) -> u32 {
    if !enter(&ctx) {
        // SAFETY: the array holds programs of the data path only.
        unsafe { TRACE_PROGRAMS.tail_call(&ctx, TRACE_MAIN) };
    }
    // SAFETY: the array holds programs of this object only.
    unsafe { PROGRAMS.tail_call(&ctx, MAIN) };
    crate::dropped(DropReason::Internal as u32)
}

/// Emits the event of a finished packet, if it matches, and returns its XDP action.
#[xdp]
#[inline(always)]
pub fn steer_trace_emit(ctx: XdpContext) -> u32 {
    let (Some(state), Some(filter)) = (state(), TRACE_FILTER.get(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    if state.event.verdict == TraceVerdict::Dropped as u8 {
        log::drop(
            &ctx,
            &state.event,
            state.event.sent_by,
            ctx.ingress_ifindex() as u32,
        );
    }
    if fits(state, filter) {
        emit(ctx.ctx, state);
    }
    state.action
}

/// Returns the state of this CPU.
#[inline(always)]
fn state<'s>() -> Option<&'s mut TraceState> {
    // SAFETY: as in `PerCpu::with`.
    TRACE_STATE.pointer(0).map(|state| unsafe { &mut *state })
}

/// Records a received packet. Returns false if it is known not to match, which is possible for
/// packets with the usual headers; the flow of others is found later.
#[inline(always)]
fn enter(ctx: &XdpContext) -> bool {
    let Some(filter) = TRACE_FILTER.get(0) else {
        return false;
    };
    let frame = XdpFrame::new(ctx);
    let packet = if is_v6(&frame) {
        parse_v6(&frame, 0)
    } else {
        parse_v4(&frame, 0)
    };
    if packet.is_some_and(|packet| !takes_flow(filter, &packet.key)) {
        return false;
    }
    let Some(state) = state() else {
        return false;
    };
    let event = &mut state.event;
    event.key.family = 0;
    event.slot = u32::MAX;
    event.steps = 0;
    event.service = TRACE_ANY;
    event.class = TRACE_ANY;
    event.member = 0;
    event.reason = 0;
    event.len = length(ctx.ctx);
    event.before_len = copy(ctx.ctx, &mut event.before, event.len);
    true
}

#[inline(always)]
fn length(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the context is valid.
    unsafe { bpf_xdp_get_buff_len(ctx) as u32 }
}

/// Copies the first bytes of the packet, and returns their number.
#[inline(always)]
fn copy(ctx: *mut xdp_md, to: &mut [u8; TRACE_BYTES], len: u32) -> u16 {
    let mut len = len & 0xffff;
    if len > TRACE_BYTES as u32 {
        len = TRACE_BYTES as u32;
    }
    // SAFETY: a move of a register to itself: what is checked is what is used.
    unsafe { asm!("{0} = {0}", inout(reg) len, options(pure, nomem, nostack)) };
    if len == 0 {
        return 0;
    }
    // The value stays. Linux before 6.8 learns nothing from a failed comparison with 0.
    const { assert!(TRACE_BYTES.is_power_of_two()) };
    let len = ((len - 1) & (TRACE_BYTES as u32 - 1)) + 1;
    // SAFETY: the context is valid, and there is room for as many bytes.
    let done = unsafe { bpf_xdp_load_bytes(ctx, 0, to.as_mut_ptr().cast(), len) };
    if done == 0 { len as u16 } else { 0 }
}

/// Recorder of a packet in one program.
#[derive(Clone, Copy)]
pub(crate) struct Recorder(*mut TraceState);

impl Recorder {
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        TRACE_STATE.pointer(0).map(Self)
    }

    #[inline(always)]
    fn event(&self) -> &mut TraceEvent {
        // SAFETY: as in `state`; nobody keeps what is lent here.
        unsafe { &mut (*self.0).event }
    }

    /// Records the flow.
    #[inline(always)]
    pub(crate) fn trace_flow(self, key: &FlowKey) {
        self.event().key = *key;
    }

    #[inline(always)]
    fn step(self, step: u32) {
        self.event().steps |= step;
    }

    /// Records a step of the decision.
    #[inline(always)]
    pub(crate) fn trace_step(self, step: Step) {
        match step {
            Step::Service(id) => self.event().service = id,
            Step::Class(id) => self.event().class = id,
            Step::Slot(index, _) => self.event().slot = index,
            Step::Picked(id) => self.choice(id, trace_steps::PICKED),
            Step::Owner(id) => self.choice(id, trace_steps::OWNER),
            Step::FlowTableHit(id) => self.choice(id, trace_steps::FLOW_TABLE_HIT),
            Step::NatHit(id) => self.choice(id, trace_steps::NAT_HIT),
            Step::ServerId(_, id) if id != 0 => self.choice(id, trace_steps::SERVER_ID),
            Step::ServerId(..) => self.step(trace_steps::STRANGE_ID),
            Step::Insert(_) => self.step(trace_steps::INSERTED),
            Step::Retry(_) => self.step(trace_steps::RETRIED),
            Step::Unavailable(_) => self.step(trace_steps::UNAVAILABLE),
            Step::Hot(_) => self.step(trace_steps::HOT),
            Step::OutsideRegion(_) => self.step(trace_steps::OUTSIDE_REGION),
            Step::EndOfChain => self.step(trace_steps::END_OF_CHAIN),
        }
    }

    #[inline(always)]
    fn choice(self, id: u16, step: u32) {
        self.member(id);
        self.step(step);
    }

    /// Records the member of a packet.
    #[inline(always)]
    pub(crate) fn member(self, id: u16) {
        self.event().member = id;
    }

    /// Records that a packet is a member's answer.
    #[inline(always)]
    pub(crate) fn answer(self, id: u16) {
        self.choice(id, trace_steps::ANSWER);
    }

    /// Records that a packet's sender is answered.
    #[inline(always)]
    pub(crate) fn answered(self, reason: DropReason) {
        self.event().reason = reason as u8;
    }
}

/// Finishes a program: returns `action`, after the event was emitted. `word` is the reason of a
/// drop, or the outgoing interface.
#[inline(always)]
pub(crate) fn end(ctx: &XdpContext, verdict: TraceVerdict, word: u32, action: u32) -> u32 {
    if let Some(state) = state() {
        state.action = action;
        state.event.verdict = verdict as u8;
        state.event.sent_by = word;
        // SAFETY: the array holds programs of the data path only.
        unsafe { TRACE_PROGRAMS.tail_call(ctx, TRACE_EMIT) };
    }
    // The trace has ended: the array belonged to the daemon, and is gone.
    action
}

/// Returns whether an event is emitted for a packet.
#[inline(always)]
fn fits(state: &mut TraceState, filter: &TraceFilter) -> bool {
    let event = &mut state.event;
    let takes = if event.key.family == 0 {
        filter.takes_any_flow()
    } else {
        takes_flow(filter, &event.key)
    };
    if !takes {
        return false;
    }
    if event.verdict == TraceVerdict::Dropped as u8 {
        event.reason = event.sent_by as u8;
    }
    if event.verdict == TraceVerdict::Dropped as u8 || event.verdict == TraceVerdict::Passed as u8 {
        event.sent_by = 0;
    } else if event.reason != 0 {
        event.verdict = TraceVerdict::Answered as u8;
    }
    if !takes_result(filter, event) {
        return false;
    }
    state.fits += 1;
    if filter.sample > 1 && state.fits % u64::from(filter.sample) != 0 {
        return false;
    }
    if filter.limit != 0 && state.emitted >= u64::from(filter.limit) {
        return false;
    }
    state.emitted += 1;
    true
}

/// Returns whether a flow matches, or that of its client if it is a backend's under `nat`: the
/// backend's flow has the node's address and port, not those of the client.
#[inline(always)]
fn takes_flow(filter: &TraceFilter, key: &FlowKey) -> bool {
    if filter.takes_flow(key) {
        return true;
    }
    if !filter.has_address() {
        return false;
    }
    NAT_REVERSE.get_ptr(*key).is_some_and(|entry| {
        // SAFETY: an entry of the map, of which only what never changes is read.
        filter.takes_flow(&unsafe { &*entry }.forward_key(key))
    })
}

/// Returns whether the outcome of the packet matches.
#[inline(always)]
fn takes_result(filter: &TraceFilter, event: &mut TraceEvent) -> bool {
    let mut backend = TRACE_ANY;
    if event.member != 0
        && let Some(member) = MEMBERS.get(u32::from(event.member))
    {
        backend = member.backend;
        // Answers of `nat` match no service by their address.
        if event.service == TRACE_ANY {
            event.service = member.service;
        }
    }
    (filter.verdicts == 0 || filter.verdicts >> (event.verdict & 7) & 1 != 0)
        && (filter.reasons == 0 || filter.reasons >> (event.reason & 0x3f) & 1 != 0)
        && filter.takes_service(event.service)
        && (filter.backend == TRACE_ANY || filter.backend == backend)
}

#[inline(always)]
fn emit(ctx: *mut xdp_md, state: &mut TraceState) {
    let event = &mut state.event;
    // SAFETY: the helper takes nothing.
    event.at_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the context is valid.
    event.interface = unsafe { (*ctx).ingress_ifindex };
    event.after_len = 0;
    event.sent_len = 0;
    if event.sent_by != 0 {
        event.sent_len = length(ctx);
        event.after_len = copy(ctx, &mut event.after, event.sent_len);
    }
    if TRACE_EVENTS.output::<TraceEvent>(&*event, 0).is_err() {
        state.lost += 1;
    }
}
