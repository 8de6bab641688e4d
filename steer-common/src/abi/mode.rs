//! Forwarding modes. To add one, add a row to the table, its rewriting to `rewrite` and its use to `transmit`.

/// Calls a macro with the rows of the modes: variant, number, name, outer headers, the list that must have a
/// source address of the node, and the way a packet is sent.
#[macro_export]
macro_rules! modes {
    ($callback:ident) => {
        $callback! {
            /// Addresses and ports are rewritten in both directions.
            Nat = 1, "nat", OuterHeaders::None, Some(SourceList::Nat), "with rewritten addresses";
            /// The packet is wrapped in an IP header (RFC 2003, RFC 2473); the backend answers directly.
            Ipip = 2, "ipip", OuterHeaders::Ip, Some(SourceList::Encap), "inside an IP header";
            /// The packet is wrapped in IP and UDP headers (Generic UDP Encapsulation, variant 1 of
            /// draft-ietf-intarea-gue-09); the backend answers directly.
            Gue = 3, "gue", OuterHeaders::IpUdp, Some(SourceList::Encap), "inside IP and UDP headers";
            /// Only the MAC addresses change: the backend is on the same link, has the VIP, and answers
            /// directly.
            L2 = 4, "l2", OuterHeaders::None, None, "by its MAC address";
        }
    };
}

/// Headers that a mode adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterHeaders {
    /// None.
    None,
    /// An IP header.
    Ip,
    /// An IP and a UDP header.
    IpUdp,
}

/// List in the configuration that must have a source address of the node for a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceList {
    /// `addresses` of section `[nat]`.
    Nat,
    /// `sources` of section `[encap]`.
    Encap,
}

macro_rules! mode {
    ($(
        $(#[$doc:meta])*
        $mode:ident = $number:literal, $name:literal, $outer:expr, $sources:expr, $manner:literal;
    )*) => {
        /// Forwarding mode to a member.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Mode {
            $($(#[$doc])* $mode = $number,)*
        }

        impl Mode {
            /// All modes.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$mode),*];

            /// Returns the mode from the byte in a map.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($number => Some(Self::$mode),)*
                    _ => None,
                }
            }

            /// Returns the name in the configuration and in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mode => $name,)*
                }
            }

            /// Returns the headers that are added.
            pub const fn outer_headers(self) -> OuterHeaders {
                match self {
                    $(Self::$mode => $outer,)*
                }
            }

            /// Returns the list that must have a source address of the node.
            pub const fn source_list(self) -> Option<SourceList> {
                match self {
                    $(Self::$mode => $sources,)*
                }
            }

            /// Returns the words for the manner in which a packet is sent.
            pub const fn manner(self) -> &'static str {
                match self {
                    $(Self::$mode => $manner,)*
                }
            }
        }
    };
}

modes!(mode);

impl Mode {
    /// Returns the number of bytes that are added to a packet for a backend of this IP version.
    pub const fn overhead(self, v6: bool) -> u32 {
        let ip = if v6 { 40 } else { 20 };
        match self.outer_headers() {
            OuterHeaders::None => 0,
            OuterHeaders::Ip => ip,
            OuterHeaders::IpUdp => ip + 8,
        }
    }

    /// Returns whether backends answer clients directly, so that their packets do not pass this node.
    pub const fn is_direct_return(self) -> bool {
        match self {
            Self::Nat => false,
            Self::Ipip | Self::Gue | Self::L2 => true,
        }
    }
}
