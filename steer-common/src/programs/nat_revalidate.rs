//! The program that re-checks flows with rewritten addresses: those that were idle for long, those
//! whose return path may have changed, and answers that may be too long for it.

use crate::{
    abi::{
        ClientNextHop, Config, FlowKey, MAIN, TOO_BIG, VERIFY_CHECKSUM, age, checksum_purpose,
        service_flags,
    },
    decide::{
        class::classify,
        connection::QuicClassifier,
        eligibility::refuse_open_flow,
        nat::{
            self,
            client_hop::{self, client_next_hop},
            idle,
        },
        service::find_service,
    },
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, forward, reply},
    verdict::{DropReason, Verdict},
    wire::Packet,
};

/// A whole packet whose flow was checked.
struct Revalidated<'a, F>(&'a F);

impl<F: Frame> QuicClassifier for Revalidated<'_, F> {
    const IS_WHOLE: bool = false;

    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.0)
    }
}

/// Re-checks the flow of a whole packet, and sends the packet on.
#[inline(always)]
pub fn nat_revalidate<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.stored_packet();
    let Some(service) = find_service(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    if service.flags & service_flags::NAT_SOURCE != 0 {
        return revalidate_reply(frame, &packet, tables, config);
    }
    let Some(service) = classify(&packet, tables, service) else {
        return Outcome::drop(DropReason::Internal);
    };
    let classifier = Revalidated(&*frame);
    if client_flow_expired(&packet, tables, &classifier, config) {
        let reason = refuse_open_flow(&packet, service, DropReason::NatUnknownFlow);
        if reason as u8 == DropReason::Reset as u8 {
            return Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::RESET_SENDER);
        }
        return Outcome::drop(reason);
    }
    match nat::lookup(&packet, tables, &classifier, config, service) {
        nat::Lookup::Unknown { .. } => Outcome::tail_call(MAIN, 0),
        nat::Lookup::Decided(verdict) => match verdict {
            Verdict::Drop(reason) => Outcome::drop(reason),
            Verdict::NatForward(target, ends) => forward(frame, &packet, tables, target, &ends),
            Verdict::NatTcp => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::VALIDATE),
            Verdict::Reset => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::RESET_SENDER),
            Verdict::Pass
            | Verdict::Encap(_)
            | Verdict::NatCreate(_)
            | Verdict::Quic
            | Verdict::QuicDecrypt
            | Verdict::NatQuic(_)
            | Verdict::NatReply(..)
            | Verdict::NatRevalidate => Outcome::drop(DropReason::Internal),
        },
    }
}

/// Checks the flow of a backend's packet, and sends the packet to its client.
#[inline(always)]
fn revalidate_reply<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    config: &Config,
) -> Outcome {
    let late = backend_flow_expired(packet, tables, config);
    if late != idle::NOT_EXPIRED {
        return Outcome::tail_call(VERIFY_CHECKSUM, late);
    }
    let interface = tables.with_reverse(&packet.key, |entry| entry.client_hop.interface);
    let mtu = client_hop::mtu(tables, interface.unwrap_or(0));
    if mtu != 0 && packet.ip_len > mtu {
        return Outcome::tail_call(TOO_BIG, mtu as u16);
    }
    match nat::reply(packet, tables, &Revalidated(&*frame), config) {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::NatReply(member, ends, back) => reply(frame, packet, tables, member, &ends, &back),
        Verdict::NatTcp => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::VALIDATE),
        Verdict::Encap(_)
        | Verdict::NatCreate(_)
        | Verdict::Quic
        | Verdict::QuicDecrypt
        | Verdict::NatQuic(_)
        | Verdict::NatForward(..)
        | Verdict::Reset
        | Verdict::NatRevalidate => Outcome::drop(DropReason::Internal),
    }
}

/// Updates the return path to a client if its packet proves a new one, and returns whether its flow
/// was idle for too long.
#[inline(always)]
fn client_flow_expired<T: Tables>(
    packet: &Packet,
    tables: &T,
    classifier: &impl QuicClassifier,
    config: &Config,
) -> bool {
    let now = tables.now_ticks();
    let back = client_next_hop(packet, config);
    let mut reverse = FlowKey::default();
    let (mut member, mut idle, mut moved) = (0, 0, false);
    tables.with_forward(&packet.key, |entry| {
        let proven = nat::proves_sender(packet, classifier, entry);
        moved = !client_hop::is_same(&entry.client_hop, &back)
            && client_hop::may_follow(&entry.client_hop, &back, tables, packet.key.family, proven);
        if moved {
            entry.client_hop = back;
        }
        member = entry.member;
        idle = age(now, entry.last_ticks);
        reverse = entry.reverse_key(&packet.key);
    });
    if moved {
        tables.with_reverse(&reverse, |entry| entry.client_hop = back);
    }
    idle > idle::check_after(packet, config)
        && !packet.opens_tcp()
        && idle::client_flow_expired(packet, tables, config, (member, idle), &reverse)
}

/// Updates the return path to the client of a backend's packet, and returns which end gets a reset because the
/// flow was idle for too long: a [`checksum_purpose`], or [`idle::NOT_EXPIRED`].
#[inline(always)]
fn backend_flow_expired<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> u16 {
    let now = tables.now_ticks();
    let mut back = ClientNextHop::default();
    let mut forward = FlowKey::default();
    let (mut member, mut idle, mut state) = (0, 0, 0);
    tables.with_reverse(&packet.key, |entry| {
        if entry.client_hop.epoch() != config.routers_epoch {
            entry.client_hop =
                client_hop::current_hop(&entry.client_hop, tables, packet.key.family, config);
            back = entry.client_hop;
        }
        member = entry.member;
        idle = age(now, entry.last_ticks);
        state = entry.state | entry.peer_state;
        forward = entry.forward_key(&packet.key);
    });
    if back.interface != 0 {
        tables.with_forward(&forward, |entry| entry.client_hop = back);
    }
    if idle <= idle::check_after(packet, config) {
        return idle::NOT_EXPIRED;
    }
    idle::backend_flow_expired(tables, config, (member, idle), state, &forward)
}
