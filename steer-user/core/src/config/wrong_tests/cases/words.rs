//! Words that are not among those of a key.

use super::super::Wrong;

pub(super) const CASES: &[Wrong] = &[
    (
        "\"tcp\"",
        "\"TCP\"",
        32,
        "`protocol` cannot be \"TCP\"",
        "did you mean `tcp`?",
    ),
    (
        "\"tcp\"",
        "\"http\"",
        32,
        "`protocol` cannot be \"http\"",
        "write `tcp`, which carries it",
    ),
    (
        "\"tcp\"",
        "\"quic\"",
        32,
        "`protocol` cannot be \"quic\"",
        "write `udp`, and `quic = true`",
    ),
    (
        "mode = \"nat\"",
        "mode = \"dsr\"",
        15,
        "`mode` cannot be \"dsr\"",
        "`l2` for backends on the same link",
    ),
    (
        "mode = \"nat\"",
        "mode = \"ipp\"",
        15,
        "`mode` cannot be \"ipp\"",
        "did you mean `ipip`?",
    ),
    (
        "mode = \"nat\"",
        "mode = \"wireguard\"",
        15,
        "`mode` cannot be \"wireguard\"",
        "write `nat`, `ipip`, `gue` or `l2`",
    ),
];
