//! Every map of the program: those that the daemon knows, from the table in `steer-common`, and those that
//! only programs access.

use core::mem::MaybeUninit;

use aya_ebpf::macros::map;
#[cfg(feature = "trace")]
use steer_common::abi::{TRACE_RING, TraceFilter, TraceState, maps::TRACE_PROGRAM_COUNT};
#[cfg(not(feature = "trace"))]
use steer_common::cutover_maps;
#[cfg(feature = "trace")]
use steer_common::trace_maps;
use steer_common::{
    // Types and constants in the rows.
    abi::{maps::*, *},
    frame::MAX_LAUNDERED_BYTES,
    pinned_maps,
    wire::Packet,
};

use crate::per_cpu::PerCpu;

pinned_maps!(statics);
#[cfg(not(feature = "trace"))]
cutover_maps!(statics);
#[cfg(feature = "trace")]
trace_maps!(statics);

/// Next position of each CPU's ring of unassured flows.
#[map]
pub(crate) static NEXT_UNASSURED: PerCpu<u32> = PerCpu::with_max_entries(1, 0);

/// Scratch space for two entries that would not fit on the stack.
#[map]
pub(crate) static NAT_SCRATCH: PerCpu<(NatForward, NatReverse)> = PerCpu::with_max_entries(1, 0);

/// Argument of the next program.
#[map]
pub(crate) static TAIL_CALL_ARGUMENT: PerCpu<u32> = PerCpu::with_max_entries(1, 0);

/// The parsed packet for the next program.
#[map]
pub(crate) static PACKET: PerCpu<MaybeUninit<Packet>> = PerCpu::with_max_entries(1, 0);

/// Recently sent ICMP errors: start of the period, and number.
#[map]
pub(crate) static ICMP_BUDGET: PerCpu<[u32; 2]> = PerCpu::with_max_entries(1, 0);

/// Scratch space in which the verifier loses track of values.
#[map]
pub(crate) static SCRATCH: PerCpu<[u64; MAX_LAUNDERED_BYTES / 8]> = PerCpu::with_max_entries(1, 0);

/// Time of the last record of each drop reason.
#[cfg(feature = "trace")]
#[map]
pub(crate) static LOG_TIMES: aya_ebpf::maps::Array<u32> =
    aya_ebpf::maps::Array::with_max_entries(DropReason::COUNT, 0);
