//! Tuning: values that the operator sets in place of built-in ones.

use std::time::Duration;

use crate::config::Setting;

/// Values that the operator set, and the configuration does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Time that a nat flow of TCP is kept without a packet.
    pub nat_idle: Option<Duration>,
    /// Time that a nat flow of UDP is kept without a packet.
    pub nat_udp_idle: Option<Duration>,
    /// Time after which the retransmission of an unanswered SYN goes to another backend.
    pub nat_retry: Option<Duration>,
    /// Interval of garbage collections.
    pub gc_interval: Option<Duration>,
}

impl Tuning {
    /// Returns the interval of garbage collections.
    #[must_use]
    pub fn gc_interval(&self) -> Duration {
        let default = || Setting::GcInterval.default_time();
        self.gc_interval.unwrap_or_else(default)
    }
}
