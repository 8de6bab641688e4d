//! Settings in the kernel: what the configuration says, and what the operator tuned.

use std::time::Duration;

use steer_common::abi::{
    Config as Settings, MAX_UNASSURED_FLOWS, NatTimeouts, TICK_SHIFT, nat_flags,
};

use super::{nat_idle, quic_server_ids, tuning::Tuning};
use crate::config::{self, Config, Setting};

impl Tuning {
    /// Returns the settings in the kernel with these values, without seeds; `cpus` are the possible ones.
    #[must_use]
    pub fn settings(&self, config: &Config, cpus: u32) -> Settings {
        let mut settings = configured(config, cpus);
        for (value, time) in [
            (&mut settings.nat_timeouts.idle_ticks, self.nat_idle),
            (&mut settings.nat_timeouts.udp_idle_ticks, self.nat_udp_idle),
            (&mut settings.nat_retry_ticks, self.nat_retry),
        ] {
            if let Some(time) = time {
                *value = ticks(time);
            }
        }
        settings.nat_idle_min_ticks = nat_idle::shortest(config, self).unwrap_or(0);
        settings
    }
}

/// Settings by the configuration alone, without seeds, which the data path keeps.
fn configured(config: &Config, cpus: u32) -> Settings {
    let count = |v4: bool| {
        let of = config.nat.addresses.iter().filter(|a| a.is_ipv4() == v4);
        of.count() as u16
    };
    let address =
        |outer: Option<config::Outer>| outer.map_or_else(Default::default, |o| o.address.into());
    let bits = |outer: Option<config::Outer>| outer.map_or(0, |o| o.bits);
    let first = *config.nat.ports.start();
    Settings {
        nat_v4: count(true),
        nat_v6: count(false),
        outer_v4: address(config.encap.v4),
        outer_v6: address(config.encap.v6),
        outer_v4_bits: bits(config.encap.v4),
        outer_v6_bits: bits(config.encap.v6),
        gue_port: config.encap.gue_port,
        nat_port_first: first,
        nat_port_count: (config.nat.ports.end() - first).saturating_add(1),
        nat_timeouts: nat_timeouts(config),
        nat_retry_ticks: ticks(Setting::NatRetry.default_time()),
        burst_gap_us: in_units(config.nat.burst_gap, 1024),
        nat_flags: nat_flags(config),
        // A machine with more CPUs than that has other worries.
        nat_unassured_max: MAX_UNASSURED_FLOWS.checked_div(cpus).unwrap_or(0),
        denies: u32::from(!config.admission.deny.is_empty()),
        cids: quic_server_ids::layouts(config),
        ..Settings::default()
    }
}

fn nat_flags(config: &Config) -> u32 {
    let mut flags = 0;
    if config.nat.verify_checksums {
        flags |= nat_flags::VERIFIES_CHECKSUMS;
    }
    // In generic mode network cards and the kernel may have taken tags off already.
    if config.node.xdp_mode == config::XdpMode::Native {
        flags |= nat_flags::CHECKS_VLAN;
    }
    flags
}

/// Timeouts of nat entries.
fn nat_timeouts(config: &Config) -> NatTimeouts {
    NatTimeouts {
        idle_ticks: idle_ms(config),
        udp_idle_ticks: udp_idle_ms(config),
        unassured_ticks: in_units(config.nat.opening_timeout, 1 << TICK_SHIFT),
        udp_unassured_ticks: in_units(config.nat.udp_unassured_timeout, 1 << TICK_SHIFT),
        closed_ticks: in_units(config.nat.closed_timeout, 1 << TICK_SHIFT),
    }
}

/// A time of the configuration in units of that many nanoseconds.
fn in_units(time: Duration, unit: u32) -> u32 {
    u32::try_from(time.as_nanos() / u128::from(unit)).unwrap_or(u32::MAX / 4)
}

/// A time in the kernel's ticks, of about a millisecond.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX / 4)
}

/// The longest idle timeout of a service for UDP, in ticks.
pub(crate) fn udp_idle_ms(config: &Config) -> u32 {
    longest(config, |service| service.protocol == config::Protocol::Udp)
}

/// The longest idle timeout of a service, in ticks.
pub(crate) fn idle_ms(config: &Config) -> u32 {
    longest(config, |_| true)
}

fn longest(config: &Config, of: impl Fn(&config::Service) -> bool) -> u32 {
    let services = config.services.iter().filter(|service| of(service));
    let longest = services.map(|service| service.idle_timeout).max();
    longest.map_or(300_000, ticks)
}
