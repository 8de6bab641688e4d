//! Latencies from packets of mode `nat`.

use super::{MIN_ANSWER_BYTES, is_measured};
use crate::{
    abi::{Config, Measure, NatReverse, nat_state},
    tables::Tables,
    wire::{ACK, Packet, RST, SYN},
};

/// A latency sample that a packet completes: numbers, for the verifier's sake.
#[derive(Clone, Copy)]
pub(super) struct LatencySample {
    /// A [`Measure`], or `NONE`.
    pub(super) measure: u8,
    pub(super) ns: u64,
}

impl LatencySample {
    pub(super) const NONE: u8 = u8::MAX;
    pub(super) const EMPTY: Self = Self {
        measure: Self::NONE,
        ns: 0,
    };

    #[inline(always)]
    const fn new(measure: Measure, ns: u64) -> Self {
        Self {
            measure: measure as u8,
            ns,
        }
    }
}

/// Time of a backend's packet, and the measure that it belongs to.
pub(super) struct LatencyTracker {
    pub(super) now_ticks: u32,
    /// Fine clock, read only for packets at which latencies start or end; 0 otherwise.
    now_ns: u64,
}

impl LatencyTracker {
    #[inline(always)]
    pub(super) fn start<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> Self {
        let measured = is_measured(packet, config);
        let answers = measured && packet.payload() >= MIN_ANSWER_BYTES;
        let accepts = measured && packet.tcp_flags & (SYN | ACK | RST) == SYN | ACK;
        let now_ns = if answers || accepts {
            tables.now_precise_ns()
        } else {
            0
        };
        Self {
            now_ticks: tables.now_ticks(),
            now_ns,
        }
    }

    /// Returns the sample that the packet completes, if any.
    #[inline(always)]
    pub(super) fn sample(
        &self,
        packet: &Packet,
        config: &Config,
        entry: &mut NatReverse,
        state: &mut u8,
    ) -> LatencySample {
        if self.now_ns == 0 {
            return LatencySample::EMPTY;
        }
        let since_asked = self.now_ns.saturating_sub(entry.request_ns);
        if packet.tcp_flags & SYN != 0 {
            let first = entry.state & nat_state::ANSWERED == 0 && entry.request_ns != 0;
            return if first {
                LatencySample::new(Measure::Connect, since_asked)
            } else {
                LatencySample::EMPTY
            };
        }
        let heard = entry.last_answer_ns;
        if nat_state::awaits_answer(entry.state, entry.peer_state) {
            *state ^= nat_state::REQUEST_PARITY;
            *state &= !nat_state::SECOND_BURST_SEEN;
            entry.last_answer_ns = self.now_ns;
            return LatencySample::new(Measure::FirstByte, since_asked);
        }
        if heard == 0 {
            // The backend speaks before the first request.
            return LatencySample::EMPTY;
        }
        entry.last_answer_ns = self.now_ns;
        let gap = self.now_ns.saturating_sub(heard);
        if gap < u64::from(config.burst_gap_us) << 10 {
            return LatencySample::EMPTY;
        }
        if *state & nat_state::SECOND_BURST_SEEN == 0 {
            *state |= nat_state::SECOND_BURST_SEEN;
            return LatencySample::new(Measure::SecondBurst, since_asked);
        }
        LatencySample::new(Measure::Gap, gap)
    }
}
