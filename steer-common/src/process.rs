//! The complete data path on the host: a loop over the programs.

use crate::{
    abi::{
        FIRST_FRAGMENT, GENERAL, ICMP_ERROR, LATER_FRAGMENT, MAIN, MARTIAN, NAT_CREATE, NAT_QUIC,
        NAT_RETRY, NAT_REVALIDATE, NAT_TCP, QUIC, QUIC_DECRYPT, RESET, TIME_EXCEEDED, TOO_BIG, V6,
        VERIFY_CHECKSUM,
    },
    frame::Frame,
    programs,
    tables::Tables,
    transmit::Outcome,
    verdict::DropReason,
};

/// Processes a packet from an interface completely. In the kernel its parts are programs of their
/// own.
pub fn process<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let mut outcome = programs::main(frame, interface, tables);
    while outcome.is_tail_call() {
        let argument = outcome.argument();
        outcome = match outcome.program() {
            FIRST_FRAGMENT => programs::first_fragment(frame, interface, tables),
            ICMP_ERROR => programs::icmp_error(frame, interface, tables),
            V6 => programs::v6(frame, interface, tables),
            GENERAL => programs::general(frame, interface, tables),
            LATER_FRAGMENT => programs::later_fragment(frame, interface, tables),
            TIME_EXCEEDED => programs::time_exceeded(frame, interface, tables),
            TOO_BIG => programs::too_big(frame, interface, tables, argument),
            MAIN => programs::main(frame, interface, tables),
            NAT_CREATE => programs::nat_create(frame, tables, argument),
            QUIC => programs::quic(frame, tables, argument),
            QUIC_DECRYPT => programs::quic_decrypt(frame, tables),
            NAT_QUIC => programs::nat_quic(frame, tables, argument),
            MARTIAN => programs::martian(frame, interface, tables),
            NAT_REVALIDATE => programs::nat_revalidate(frame, tables),
            RESET => programs::reset(frame, interface, tables, argument),
            NAT_TCP => programs::nat_tcp(frame, tables, argument),
            NAT_RETRY => programs::nat_retry(frame, tables, argument),
            VERIFY_CHECKSUM => programs::verify_checksum(frame, tables, argument),
            _ => Outcome::drop(DropReason::Internal),
        };
    }
    outcome
}
