//! Connection hints of QUIC datagrams for the decision.
//!
//! Ids chosen by servers name their server (see [`cid`](crate::cid)), so that an open flow needs no
//! entry and survives a change of the client's address. A datagram that names none is steered by
//! its 5-tuple, like TCP.

use super::quic_header::{ConnectionHint, read_connection_hint};
use crate::{
    abi::{Config, Member, Service, service_flags},
    frame::Frame,
    tables::{Step, Tables},
    verdict::Verdict,
    wire::Packet,
};

/// Source of the connection hint for the decision.
pub trait QuicClassifier {
    /// Flag for whole packets, whose flows are re-checked if necessary.
    const IS_WHOLE: bool = true;

    /// Flag for validating TCP segments under `nat` here instead of in another program.
    const VALIDATES_TCP: bool = false;

    /// Returns whether the checksum of a TCP segment is correct. False if it was not verified.
    #[inline(always)]
    fn is_checksum_valid(&self) -> bool {
        false
    }

    /// Returns the TCP sequence and acknowledgment number of a packet. `None` for fragments and
    /// ICMP errors, which prove nothing.
    #[inline(always)]
    fn tcp_numbers(&self, _packet: &Packet) -> Option<[u32; 2]> {
        None
    }

    /// Returns the verdict for a packet of a QUIC service, if it is not decided like others.
    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        _packet: &Packet,
        _tables: &'t T,
        _config: &Config,
        _service: &'t Service,
        _chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        None
    }

    /// Returns whether the packet is QUIC, if it is for this service or class. Computed where
    /// needed, and not stored: stack is scarce.
    #[inline(always)]
    fn is_quic(&self, service: &Service) -> bool {
        service.flags & service_flags::QUIC != 0
    }

    /// Returns the hint of the packet, which is for this service.
    #[inline(always)]
    fn connection_hint(&self, _config: &Config, _service: &Service) -> ConnectionHint {
        ConnectionHint::NONE
    }
}

/// Deferred: the program for QUIC decides.
pub(crate) struct Deferred<'a, F>(pub(crate) &'a F);

impl<F: Frame> QuicClassifier for Deferred<'_, F> {
    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.0)
    }

    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        _packet: &Packet,
        tables: &'t T,
        config: &Config,
        service: &'t Service,
        _chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        tables.trace_step(Step::Service(service.id));
        Some(if config.cids.encrypted != 0 {
            Verdict::QuicDecrypt
        } else {
            Verdict::Quic
        })
    }

    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }
}

/// For fragments and ICMP errors, whose QUIC header is not available.
#[derive(Clone, Copy, Debug)]
pub struct Opaque;

impl QuicClassifier for Opaque {
    const IS_WHOLE: bool = false;
}

/// For a packet whose member is chosen, and whose flow is checked like others.
pub(crate) struct KnownMember;

impl QuicClassifier for KnownMember {}

/// The header of a whole packet.
pub(crate) struct WithHeader<'a, F, T> {
    pub(crate) packet: &'a Packet,
    pub(crate) frame: &'a F,
    pub(crate) tables: &'a T,
    /// Member named by its decrypted connection id; 0 is none.
    pub(crate) member: u16,
}

impl<F: Frame, T: Tables> QuicClassifier for WithHeader<'_, F, T> {
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        true
    }

    #[inline(always)]
    fn connection_hint(&self, config: &Config, service: &Service) -> ConnectionHint {
        read_connection_hint(
            self.packet,
            self.frame,
            self.tables,
            config,
            service,
            self.member,
        )
    }
}
