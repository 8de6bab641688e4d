//! The programs of the data path: indexes in [`maps::PROGRAMS`](super::maps::PROGRAMS), names, and arguments
//! of tail calls.

macro_rules! programs {
    ($($(#[$doc:meta])* $constant:ident = $index:literal, $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: u32 = $index;)*

        /// Names of the programs in [`maps::PROGRAMS`](super::maps::PROGRAMS), by index.
        pub const PROGRAMS: [&str; [$($name),*].len()] = {
            let mut names = [""; [$($name),*].len()];
            $(names[$index] = $name;)*
            names
        };
    };
}

programs! {
    /// First fragments.
    FIRST_FRAGMENT = 0, "steer_first_fragment";
    /// Later fragments.
    LATER_FRAGMENT = 1, "steer_later_fragment";
    /// Answers to packets that are too big.
    TOO_BIG = 2, "steer_too_big";
    /// Creation of flows with rewritten addresses.
    NAT_CREATE = 3, "steer_nat_create";
    /// The entry program: IPv4. The index is the same in all versions: programs of another one tail-call it during a
    /// takeover.
    MAIN = 4, "steer_main";
    /// ICMP errors.
    ICMP_ERROR = 5, "steer_icmp_error";
    /// Packets with VLAN tags, options or extension headers.
    GENERAL = 6, "steer_general";
    /// IPv6.
    V6 = 7, "steer_v6";
    /// Services of QUIC.
    QUIC = 8, "steer_quic";
    /// QUIC packets with rewritten addresses.
    NAT_QUIC = 9, "steer_nat_quic";
    /// Decryption of connection ids.
    QUIC_DECRYPT = 10, "steer_quic_decrypt";
    /// Answers to packets whose TTL expires at this node.
    TIME_EXCEEDED = 11, "steer_time_exceeded";
    /// Answers to TCP segments with resets.
    RESET = 12, "steer_reset";
    /// Re-checks of flows with rewritten addresses.
    NAT_REVALIDATE = 13, "steer_nat_revalidate";
    /// Packets from impossible sources.
    MARTIAN = 14, "steer_martian";
    /// TCP segments under `nat` that open or close a connection, or whose sequence numbers are not near the last ones.
    NAT_TCP = 15, "steer_nat_tcp";
    /// SYNs that go to another member because their member under `nat` did not answer.
    NAT_RETRY = 16, "steer_nat_retry";
    /// Verification of the checksum of a TCP segment.
    VERIFY_CHECKSUM = 17, "steer_verify_checksum";
}

/// Arguments of [`VERIFY_CHECKSUM`]: the purpose of the verification. A smaller argument is the member to
/// which a flow is opened.
pub mod checksum_purpose {
    use super::super::MAX_MEMBERS;

    /// Position of the purpose, above the bits of a member.
    const SHIFT: u32 = MAX_MEMBERS.trailing_zeros();
    const _: () = assert!(MAX_MEMBERS.is_power_of_two() && SHIFT + 2 == u16::BITS);

    /// The segment is validated by [`NAT_TCP`](super::NAT_TCP).
    pub const VALIDATE: u16 = 1 << SHIFT;
    /// The sender is answered with a reset.
    pub const RESET_SENDER: u16 = 2 << SHIFT;
    /// The segment is a backend's, and its client gets a reset.
    pub const RESET_CLIENT: u16 = 3 << SHIFT;
}
