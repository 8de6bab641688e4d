//! Latencies that packets of mode `nat` tell of.

use super::{ANSWER, is_measured};
use crate::{
    abi::{Config, Measure, NatReverse, nat_state},
    tables::Tables,
    wire::{ACK, Packet, RST, SYN},
};

/// A latency that a packet ends: numbers, for the verifier's sake.
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

/// The time of a backend's packet, and what it is of.
pub(super) struct Clock {
    pub(super) now_ms: u32,
    /// The fine clock, asked only for packets that latencies begin or end with; 0 otherwise.
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

    /// The latency that the packet ends, if any.
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
            // The backend speaks before it was asked.
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
