//! Latencies from packets of mode `nat`.

use super::{ANSWER, is_measured};
use crate::{
    abi::{Config, Measure, NatReverse, nat_state},
    tables::Tables,
    wire::{ACK, Packet, RST, SYN},
};

/// A latency sample that a packet completes: numbers, for the verifier's sake.
#[derive(Clone, Copy)]
pub(super) struct Took {
    /// A [`Measure`], or `NONE`.
    pub(super) measure: u8,
    pub(super) ns: u64,
}

impl Took {
    pub(super) const NONE: u8 = u8::MAX;
    pub(super) const NOTHING: Self = Self {
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
pub(super) struct Clock {
    pub(super) now_ms: u32,
    /// Fine clock, read only for packets at which latencies start or end; 0 otherwise.
    now_ns: u64,
}

impl Clock {
    #[inline(always)]
    pub(super) fn of<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> Self {
        let measured = is_measured(packet, config);
        let answers = measured && packet.payload() >= ANSWER;
        let accepts = measured && packet.tcp_flags & (SYN | ACK | RST) == SYN | ACK;
        let now_ns = if answers || accepts {
            tables.now_fine()
        } else {
            0
        };
        Self {
            now_ms: tables.now_ms(),
            now_ns,
        }
    }

    /// Returns the sample that the packet completes, if any.
    #[inline(always)]
    pub(super) fn take(
        &self,
        packet: &Packet,
        config: &Config,
        entry: &mut NatReverse,
        state: &mut u8,
    ) -> Took {
        if self.now_ns == 0 {
            return Took::NOTHING;
        }
        let since_asked = self.now_ns.saturating_sub(entry.asked_ns);
        if packet.tcp_flags & SYN != 0 {
            let first = entry.state & nat_state::ANSWERED == 0 && entry.asked_ns != 0;
            return if first {
                Took::new(Measure::Connect, since_asked)
            } else {
                Took::NOTHING
            };
        }
        let heard = entry.heard_ns;
        if nat_state::is_waiting(entry.state, entry.told) {
            *state ^= nat_state::TURN;
            *state &= !nat_state::LATER;
            entry.heard_ns = self.now_ns;
            return Took::new(Measure::FirstByte, since_asked);
        }
        if heard == 0 {
            // The backend speaks before the first request.
            return Took::NOTHING;
        }
        entry.heard_ns = self.now_ns;
        let gap = self.now_ns.saturating_sub(heard);
        if gap < u64::from(config.burst_gap_us) << 10 {
            return Took::NOTHING;
        }
        if *state & nat_state::LATER == 0 {
            *state |= nat_state::LATER;
            return Took::new(Measure::SecondBurst, since_asked);
        }
        Took::new(Measure::Gap, gap)
    }
}
