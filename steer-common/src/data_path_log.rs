//! Levels of the records that the tracing programs write about drops.

use crate::abi::DropReason;

/// Level of a record, in the order of aya-log's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// No records.
    #[default]
    Off = 0,
    /// Internal faults.
    Error = 1,
    /// The first packet that a full table refuses.
    Warn = 2,
    /// Malformed packets.
    Info = 3,
    /// All other drops.
    Debug = 4,
}

impl LogLevel {
    /// All levels.
    pub const ALL: [Self; 5] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Returns the level of the record of a drop by the number of its reason.
#[inline(always)]
pub const fn level_of(reason: u32) -> LogLevel {
    const INTERNAL: u32 = DropReason::Internal as u32;
    const FLOW_TABLE_FULL: u32 = DropReason::FlowTableFull as u32;
    const NAT_PORTS_EXHAUSTED: u32 = DropReason::NatPortsExhausted as u32;
    const MALFORMED: u32 = DropReason::Malformed as u32;
    match reason {
        INTERNAL => LogLevel::Error,
        FLOW_TABLE_FULL | NAT_PORTS_EXHAUSTED => LogLevel::Warn,
        MALFORMED => LogLevel::Info,
        _ => LogLevel::Debug,
    }
}
