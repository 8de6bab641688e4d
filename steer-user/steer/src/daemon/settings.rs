//! Settings that a running daemon changes at once: `steer tune`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steer_common::abi::Config as KernelSettings;
use steer_core::{
    config::{Config, Setting, Value},
    control::Tuning,
};

/// Reason why a setting was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// No setting that can be changed has that key.
    #[error("no setting is called \"{0}\"; `steer tune list` names them")]
    Unknown(String),
    /// The value is none, or out of range.
    #[error("{}: \"{value}\" is not a value; write {}", setting.key(), setting.values())]
    Value {
        /// The setting.
        setting: Setting,
        /// The value that was wanted.
        value: String,
    },
    /// Handshakes would come more often than pings.
    #[error(
        "handshakes would come more often than pings; set probe.interval below probe.handshake_every"
    )]
    Handshakes,
    /// Two thresholds of one thing are not apart.
    #[error(
        "balance.{0}_below has to be below balance.{0}_above, or what they decide would swing; set the other one first"
    )]
    Band(&'static str),
    /// The value could not be applied.
    #[error("nothing was changed: {0:#}")]
    Failed(anyhow::Error),
}

/// State of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SettingStatus {
    /// Its key.
    pub name: String,
    /// Its description.
    pub what: String,
    /// Its value.
    pub value: String,
    /// The value that it has unless it is set: the configuration's, or one that is built in.
    pub default: String,
    /// Unit of its values: time, count, percent, level or filter.
    pub unit: String,
    /// The values that it can have.
    pub values: String,
    /// Whether a value that was set stays when a configuration is applied or read again.
    pub outlives_reload: bool,
}

/// Returns the value of a setting that the configuration does not have.
pub(crate) fn tuned(tuning: &mut Tuning, setting: Setting) -> Option<&mut Option<Duration>> {
    match setting {
        Setting::NatIdle => Some(&mut tuning.nat_idle),
        Setting::NatUdpIdle => Some(&mut tuning.nat_udp_idle),
        Setting::NatRetry => Some(&mut tuning.nat_retry),
        Setting::GcInterval => Some(&mut tuning.gc_interval),
        _ => None,
    }
}

/// Refuses what a configuration would refuse of values that are each in range.
pub(crate) fn fits(config: &Config) -> Result<(), TuneError> {
    let Config { probe, balance, .. } = config;
    if probe.handshake_every < probe.interval {
        return Err(TuneError::Handshakes);
    }
    for (name, above, below) in [
        ("hot", balance.hot_above, balance.hot_below),
        ("spill", balance.spill_above, balance.spill_below),
    ] {
        if below >= above {
            return Err(TuneError::Band(name));
        }
    }
    Ok(())
}

/// Sets a value of the configuration; returns whether the setting is one of that.
pub(crate) fn set(config: &mut Config, setting: Setting, value: &Value) -> bool {
    let Config {
        probe,
        nat,
        balance,
        ..
    } = config;
    match (setting, value) {
        (Setting::ProbeInterval, Value::Time(time)) => probe.interval = *time,
        (Setting::ProbeTimeout, Value::Time(time)) => probe.timeout = *time,
        (Setting::ProbeHandshakeEvery, Value::Time(time)) => probe.handshake_every = *time,
        (Setting::ProbeRise, Value::Count(count)) => probe.rise = *count,
        (Setting::ProbeFall, Value::Count(count)) => probe.fall = *count,
        (Setting::NatOpening, Value::Time(time)) => nat.opening_timeout = *time,
        (Setting::NatClosed, Value::Time(time)) => nat.closed_timeout = *time,
        (Setting::NatSilence, Value::Time(time)) => nat.silence = *time,
        (Setting::HotAbove, Value::Count(percent)) => balance.hot_above = *percent,
        (Setting::HotBelow, Value::Count(percent)) => balance.hot_below = *percent,
        (Setting::SpillAbove, Value::Count(percent)) => balance.spill_above = *percent,
        (Setting::SpillBelow, Value::Count(percent)) => balance.spill_below = *percent,
        _ => return false,
    }
    true
}

/// Returns the value of a setting that can be changed, except of the log filter.
pub(crate) fn value(
    setting: Setting,
    config: &Config,
    kernel: &KernelSettings,
    gc_interval: Duration,
) -> Option<Value> {
    let ticks = |ticks: u32| Value::Time(Duration::from_millis(u64::from(ticks)));
    let value = match setting {
        Setting::ProbeInterval => Value::Time(config.probe.interval),
        Setting::ProbeTimeout => Value::Time(config.probe.timeout),
        Setting::ProbeHandshakeEvery => Value::Time(config.probe.handshake_every),
        Setting::ProbeRise => Value::Count(config.probe.rise),
        Setting::ProbeFall => Value::Count(config.probe.fall),
        Setting::NatOpening => Value::Time(config.nat.opening_timeout),
        Setting::NatClosed => Value::Time(config.nat.closed_timeout),
        Setting::NatSilence => Value::Time(config.nat.silence),
        Setting::NatIdle => ticks(kernel.nat_timeouts.idle_ticks),
        Setting::NatUdpIdle => ticks(kernel.nat_timeouts.udp_idle_ticks),
        Setting::NatRetry => ticks(kernel.nat_retry_ticks),
        Setting::GcInterval => Value::Time(gc_interval),
        Setting::HotAbove => Value::Count(config.balance.hot_above),
        Setting::HotBelow => Value::Count(config.balance.hot_below),
        Setting::SpillAbove => Value::Count(config.balance.spill_above),
        Setting::SpillBelow => Value::Count(config.balance.spill_below),
        _ => return None,
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use steer_core::control::Host;

    use super::*;

    /// A configuration with the least that one needs.
    fn config() -> Config {
        let text = "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n";
        Config::parse(text, "steer.toml".as_ref()).unwrap()
    }

    #[test]
    fn every_setting_that_can_be_changed_has_a_value_and_a_place() {
        let cpus = Host::simulated(Instant::now()).cpus;
        for setting in Setting::all_tunable()
            .filter(|setting| !matches!(setting, Setting::Log | Setting::LogDataPath))
        {
            let key = setting.key();
            let mut tuning = Tuning::default();
            let mut config = config();
            let kernel = tuning.settings(&config, cpus);
            let now = value(setting, &config, &kernel, tuning.gc_interval());
            let now = now.unwrap_or_else(|| panic!("{key} has no value"));
            assert_eq!(setting.default().unwrap_or(now.clone()), now, "{key}");
            let is_configured = set(&mut config, setting, &now);
            assert_ne!(
                is_configured,
                tuned(&mut tuning, setting).is_some(),
                "{key}"
            );
        }
    }
}
