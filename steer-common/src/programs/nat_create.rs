//! The program that creates flows with rewritten addresses.

use crate::{
    abi::{FIRST_FRAGMENT, MAIN, NAT_CREATE, NAT_QUIC},
    decide::nat,
    frame::Frame,
    tables::Tables,
    transmit::Outcome,
    verdict::DropReason,
    wire::PacketKind,
};

/// Number of members: a member and the number of rounds share the argument.
const MEMBERS: u16 = crate::abi::MAX_MEMBERS as u16;

const _: () = assert!(MEMBERS as u32 * nat::MAX_PORT_ROUNDS as u32 <= 1 << 16);

/// Creates the nat entries of a flow to a member, and lets the packet start again, now that it is
/// known. `argument` is the member; the rounds after the first are internal to this function.
#[inline(always)]
pub fn nat_create<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let (member, round) = (argument % MEMBERS, argument / MEMBERS);
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.stored_packet();
    let numbers = if packet.is_tcp() {
        packet.tcp_numbers(frame).unwrap_or_default()
    } else {
        [0; 2]
    };
    match nat::create(&packet, tables, config, (member, round), numbers) {
        Err(DropReason::NatPortsExhausted) if round + 1 < nat::MAX_PORT_ROUNDS => {
            Outcome::tail_call(NAT_CREATE, argument + MEMBERS)
        }
        // Only flows of QUIC have a member in their key.
        Ok(()) if packet.key.member != 0 => Outcome::tail_call(NAT_QUIC, member),
        Ok(()) if packet.kind as u8 == PacketKind::FirstFragment as u8 => {
            Outcome::tail_call(FIRST_FRAGMENT, 0)
        }
        Ok(()) => Outcome::tail_call(MAIN, 0),
        Err(reason) => Outcome::drop(reason),
    }
}
