//! The classifier of the programs that most packets go through.

use crate::{
    abi::{Config, Member, Service},
    decide::{
        connection::{QuicClassifier, WithHeader},
        steer_to_member,
    },
    frame::Frame,
    tables::Tables,
    verdict::Verdict,
    wire::Packet,
};

/// Separate path: packets of QUIC are decided by a copy of the code, so that others pay for one
/// flag only.
pub(crate) struct Inline<'a, F>(pub(crate) &'a F);

impl<F: Frame> QuicClassifier for Inline<'_, F> {
    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.0)
    }

    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        packet: &Packet,
        tables: &'t T,
        config: &Config,
        service: &'t Service,
        chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        if config.cids.encrypted != 0 {
            return Some(Verdict::QuicDecrypt);
        }
        let inside = WithHeader {
            packet,
            frame: self.0,
            tables,
            member: 0,
        };
        Some(steer_to_member(
            packet, tables, &inside, config, service, chosen,
        ))
    }

    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }
}
