//! Records of rare drops, for the log of the daemon. The last program of the tracing copy writes them.

use aya_ebpf::{helpers::generated::bpf_ktime_get_coarse_ns, programs::XdpContext};
use aya_log_ebpf::macro_support::Level;
use steer_common::{
    abi::{DropReason, TICK_SHIFT, TraceEvent, age},
    data_path_log::{LogLevel, level_of},
};

use crate::maps::LOG_TIMES;

/// Minimum time between two records of the same reason: a second.
const MIN_INTERVAL_TICKS: u32 = (1_000_000_000 >> TICK_SHIFT) as u32;

/// Writes a record of a dropped packet, unless there was one of the same reason within the last second.
#[inline(always)]
pub(crate) fn drop(ctx: &XdpContext, event: &TraceEvent, reason: u32, interface: u32) {
    let level = match level_of(reason) {
        LogLevel::Off => return,
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    };
    if !aya_log_ebpf::macro_support::level_enabled(level) || !is_due(reason) {
        return;
    }
    let key = &event.key;
    // A packet dropped before its flow was known finds the one of the packet before.
    let known = if key.family == 0 { 0 } else { u64::MAX };
    aya_log_ebpf::log!(
        ctx,
        level,
        "{} {} {} {:i} {} {:i} {}",
        reason,
        interface,
        event.len,
        address(key.source.words(), known),
        key.source_port & known as u16,
        address(key.destination.words(), known),
        key.destination_port & known as u16
    );
}

/// Returns whether a reason is due for another record: a full table has only its first one. CPUs that ask at
/// the same moment may both write one.
#[inline(always)]
fn is_due(reason: u32) -> bool {
    let Some(last) = LOG_TIMES.get_ptr_mut(reason) else {
        return false;
    };
    // SAFETY: the helper takes nothing.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32 | 1;
    // SAFETY: a word of the map, which is read and written as a whole.
    let then = unsafe { last.read_volatile() };
    let is_once = reason == DropReason::FlowTableFull as u32
        || reason == DropReason::NatPortsExhausted as u32;
    if then != 0 && (is_once || age(now, then) < MIN_INTERVAL_TICKS) {
        return false;
    }
    // SAFETY: as above.
    unsafe { last.write_volatile(now) };
    true
}

/// Returns the bytes of an address; all zero without a mask.
#[inline(always)]
const fn address(words: [u64; 2], mask: u64) -> [u8; 16] {
    let [high, low] = words;
    (((high & mask) as u128) | ((low & mask) as u128) << 64).to_le_bytes()
}
