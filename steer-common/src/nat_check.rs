//! The program that re-checks flows with rewritten addresses: those that were idle for long, those
//! whose return path may have changed, and answers that may be too long for it.

use crate::{
    abi::{Back, Config, FlowKey, MAIN, TOO_BIG, VERIFY, age, service_flags},
    choose::lost,
    class::classify,
    decide::find,
    frame::Frame,
    nat, nat_idle,
    nat_way::{self, way_back},
    process::{Outcome, forward, give_back},
    quic::Look,
    segment::{JUDGE, RESET_SENDER},
    tables::Tables,
    verdict::{DropReason, Verdict},
    wire::Packet,
};

/// A whole packet whose flow was checked.
struct Checked<'a, F>(&'a F);

impl<F: Frame> Look for Checked<'_, F> {
    const WHOLE: bool = false;

    #[inline(always)]
    fn numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.numbers(self.0)
    }
}

/// Looks at the flow of a whole packet, and sends the packet on.
#[inline(always)]
pub fn check<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.kept_packet();
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    if service.flags & service_flags::NAT_SOURCE != 0 {
        return send_answer(frame, &packet, tables, config);
    }
    let Some(service) = classify(&packet, tables, service) else {
        return Outcome::drop(DropReason::Internal);
    };
    let look = Checked(&*frame);
    if client_is_late(&packet, tables, &look, config) {
        return match lost(&packet, service, DropReason::NatUnknownFlow) {
            DropReason::Reset => Outcome::hand_over(VERIFY, RESET_SENDER),
            reason => Outcome::drop(reason),
        };
    }
    match nat::known(&packet, tables, &look, config, service) {
        nat::Known::Unknown { .. } => Outcome::hand_over(MAIN, 0),
        nat::Known::Decided(verdict) => match verdict {
            Verdict::Drop(reason) => Outcome::drop(reason),
            Verdict::Forward(target, ends) => forward(frame, &packet, tables, target, &ends),
            Verdict::Judge => Outcome::hand_over(VERIFY, JUDGE),
            Verdict::Reset => Outcome::hand_over(VERIFY, RESET_SENDER),
            _ => Outcome::drop(DropReason::Internal),
        },
    }
}

/// Checks the flow of a backend's packet, and sends the packet to its client.
#[inline(always)]
fn send_answer<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    config: &Config,
) -> Outcome {
    let late = backend_is_late(packet, tables, config);
    if late != nat_idle::ON_TIME {
        return Outcome::hand_over(VERIFY, late);
    }
    let interface = tables.with_reverse(&packet.key, |entry| entry.back.interface);
    let mtu = nat_way::mtu(tables, interface.unwrap_or(0));
    if mtu != 0 && packet.ip_len > mtu {
        return Outcome::hand_over(TOO_BIG, mtu as u16);
    }
    match nat::reply(packet, tables, &Checked(&*frame), config) {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Return(member, ends, back) => {
            give_back(frame, packet, tables, member, &ends, &back)
        }
        Verdict::Judge => Outcome::hand_over(VERIFY, JUDGE),
        _ => Outcome::drop(DropReason::Internal),
    }
}

/// Updates the return path to a client if its packet proves a new one, and returns whether its flow
/// was idle for too long.
#[inline(always)]
fn client_is_late<T: Tables>(
    packet: &Packet,
    tables: &T,
    look: &impl Look,
    config: &Config,
) -> bool {
    let now = tables.now_ms();
    let back = way_back(packet, config);
    let mut reverse = FlowKey::default();
    let (mut member, mut idle, mut moved) = (0, 0, false);
    tables.with_forward(&packet.key, |entry| {
        let proven = nat::proves_sender(packet, look, entry);
        moved = !nat_way::is_same(&entry.back, &back)
            && nat_way::may_follow(&entry.back, &back, tables, packet.key.family, proven);
        if moved {
            entry.back = back;
        }
        member = entry.member;
        idle = age(now, entry.last_ms);
        reverse = entry.reverse_key(&packet.key);
    });
    if moved {
        tables.with_reverse(&reverse, |entry| entry.back = back);
    }
    idle > nat_idle::worth_asking(packet, config)
        && !packet.opens_tcp()
        && nat_idle::client_is_late(packet, tables, config, (member, idle), &reverse)
}

/// Brings the way to the client of a backend's packet up to date, and returns who is to be told that its flow was
/// idle for too long: an argument of [`verify`](crate::verify), or [`nat_idle::ON_TIME`].
#[inline(always)]
fn backend_is_late<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> u16 {
    let now = tables.now_ms();
    let mut back = Back::default();
    let mut forward = FlowKey::default();
    let (mut member, mut idle, mut said) = (0, 0, 0);
    tables.with_reverse(&packet.key, |entry| {
        if entry.back.epoch() != config.routers_epoch {
            entry.back = nat_way::current(&entry.back, tables, packet.key.family, config);
            back = entry.back;
        }
        member = entry.member;
        idle = age(now, entry.last_ms);
        said = entry.state | entry.told;
        forward = entry.forward_key(&packet.key);
    });
    if back.interface != 0 {
        tables.with_forward(&forward, |entry| entry.back = back);
    }
    if idle <= nat_idle::worth_asking(packet, config) {
        return nat_idle::ON_TIME;
    }
    nat_idle::backend_is_late(tables, config, (member, idle), said, &forward)
}
