//! Recorder without tracing: emits nothing.

use aya_ebpf::programs::XdpContext;
use steer_common::{
    abi::{FlowKey, TraceVerdict},
    tables::Step,
    verdict::DropReason,
};

#[derive(Clone, Copy)]
pub(crate) struct Recorder;

impl Recorder {
    #[inline(always)]
    pub(crate) const fn new() -> Option<Self> {
        Some(Self)
    }

    #[inline(always)]
    pub(crate) fn trace_flow(self, _key: &FlowKey) {}

    #[inline(always)]
    pub(crate) fn trace_step(self, _step: Step) {}

    #[inline(always)]
    pub(crate) fn member(self, _id: u16) {}

    #[inline(always)]
    pub(crate) fn answer(self, _id: u16) {}

    #[inline(always)]
    pub(crate) fn answered(self, _reason: DropReason) {}
}

#[inline(always)]
pub(crate) fn end(_ctx: &XdpContext, _verdict: TraceVerdict, _word: u32, action: u32) -> u32 {
    action
}
