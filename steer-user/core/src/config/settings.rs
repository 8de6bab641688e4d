//! The table of settings: numbers and times of the node, each with key, range, default and scope.
//! The configuration, `steer tune`, the schema and the reference use it.

use std::{fmt, ops::RangeInclusive, time::Duration};

use humantime_serde::re::humantime::{format_duration, parse_duration};
use steer_common::{
    abi::{MAX_FLOWS, MAX_NAT_FLOWS},
    data_path_log::LogLevel,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Range of a setting, with its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// Durations.
    Time(RangeInclusive<Duration>, Duration),
    /// Numbers.
    Count(RangeInclusive<u32>, u32),
    /// Percentages.
    Percent(RangeInclusive<u32>, u32),
    /// Durations; the default is the longest `idle_timeout` of a service.
    Idle(RangeInclusive<Duration>),
    /// Levels of the data path's log, with the default.
    Level(LogLevel),
    /// Directives of a log filter; the default is that of the start.
    Filter,
}

/// Places where a setting can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The configuration.
    Configuration,
    /// The configuration; `steer tune` overrides it until a configuration is applied.
    Both,
    /// `steer tune`, until the daemon exits.
    Tune,
}

macro_rules! settings {
    ($($name:ident $key:literal $scope:ident $range:expr, $about:literal, $note:literal;)*) => {
        /// A setting of the node.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Setting {
            $(#[doc = $about] $name,)*
        }

        impl Setting {
            /// All settings, in the order of the reference.
            pub const ALL: [Self; [$($key),*].len()] = [$(Self::$name),*];

            /// Returns the key: section and name.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// Returns the places where it can be set.
            #[must_use]
            pub const fn scope(self) -> Scope {
                match self { $(Self::$name => Scope::$scope,)* }
            }

            /// Returns the values that it can have, and the default.
            #[must_use]
            pub fn range(self) -> Range {
                use Range::{Count, Filter, Idle, Level, Percent, Time};
                match self { $(Self::$name => $range,)* }
            }

            /// Returns the description, without a full stop.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }

            /// Returns more sentences about it for the reference, if there are any.
            const fn note(self) -> &'static str {
                match self { $(Self::$name => $note,)* }
            }
        }
    };
}

settings! {
    ProbeInterval "probe.interval" Both Time(10 * MS..=MINUTE, 100 * MS),
        "Interval between pings", "";
    ProbeTimeout "probe.timeout" Both Time(MS..=MINUTE, 200 * MS),
        "Probe timeout", "";
    ProbeHandshakeEvery "probe.handshake_every" Both Time(SECOND..=DAY, 30 * SECOND),
        "Interval between full handshakes", "Not shorter than `interval`.";
    ProbeRise "probe.rise" Both Count(1..=100, 2),
        "Consecutive successes after which a backend is up", "";
    ProbeFall "probe.fall" Both Count(1..=100, 2),
        "Consecutive failures after which a backend is down", "";
    ProbeFlapHalfLife "probe.flap_half_life" Configuration
        Time(Duration::ZERO..=10 * MINUTE, 10 * SECOND),
        "Half-life of the flap-damping penalty",
        "A backend that goes down repeatedly stays out until its penalty has decayed. 0s disables damping.";
    ProbeBudget "probe.budget" Configuration Count(10..=100_000, 5000),
        "Upper bound of probes per second from this node", "";
    NatOpening "nat.opening_timeout" Both Time(SECOND..=10 * MINUTE, 30 * SECOND),
        "Timeout of an unassured flow, whose client has not continued after the first answer",
        "Then it loses its port.";
    NatUdpUnassured "nat.udp_unassured_timeout" Configuration
        Time(SECOND..=10 * MINUTE, 10 * SECOND),
        "Timeout of an unassured UDP flow", "";
    NatClosed "nat.closed_timeout" Both Time(SECOND..=10 * MINUTE, MINUTE),
        "Time for which a closed flow keeps its port",
        "The default is the backend's TIME_WAIT. If ports run out, another flow may get it earlier.";
    NatBurstGap "nat.burst_gap" Configuration Time(Duration::ZERO..=10 * SECOND, 2 * MS),
        "Pause within an answer that separates two bursts",
        "0s disables latency measurement.";
    NatSilence "nat.silence" Both Time(100 * MS..=60 * MINUTE, 30 * SECOND),
        "Wait for an answer after which a connection is silent", "";
    NatIdle "nat.idle" Tune Idle(SECOND..=7 * DAY),
        "Idle timeout of TCP flows", "";
    NatUdpIdle "nat.udp_idle" Tune Idle(SECOND..=7 * DAY),
        "Idle timeout of UDP flows", "";
    NatRetry "nat.retry" Tune Time(50 * MS..=MINUTE, 500 * MS),
        "Time after which a retransmitted SYN goes to another backend", "";
    GcInterval "gc.interval" Tune Time(SECOND..=10 * MINUTE, 10 * SECOND),
        "Interval between garbage collections of the flow tables", "";
    BalanceInterval "balance.interval" Configuration Time(100 * MS..=MINUTE, 2 * SECOND),
        "Interval between updates of the weights", "";
    BalanceMaxShift "balance.max_shift" Configuration Percent(1..=100, 5),
        "Largest part of a table that moves in one update, in percent", "";
    BalanceFloor "balance.floor" Configuration Percent(1..=100, 5),
        "Lower bound of a loaded backend's weight, in percent of its full weight", "";
    BalanceSlowStart "balance.slow_start" Configuration
        Time(Duration::ZERO..=60 * MINUTE, 30 * SECOND),
        "Time until a recovered backend has its full weight", "";
    SpillAbove "balance.spill_above" Both Percent(1..=100, 80),
        "Utilization in percent above which new flows spill to the next ring", "";
    SpillBelow "balance.spill_below" Both Percent(0..=100, 65),
        "Utilization in percent below which new flows return from the next ring",
        "Below `spill_above`.";
    HotAbove "balance.hot_above" Both Percent(1..=100, 90),
        "Utilization in percent from which a backend is hot",
        "New flows then try the second choice.";
    HotBelow "balance.hot_below" Both Percent(0..=100, 75),
        "Utilization in percent below which a backend is no longer hot", "Below `hot_above`.";
    PanicBelow "balance.panic_below" Configuration Percent(0..=100, 50),
        "Percentage of healthy backends below which a service or class enters panic mode",
        "0 disables panic mode.";
    StaleAfter "balance.stale_after" Configuration Time(100 * MS..=10 * MINUTE, 3 * SECOND),
        "Age from which a load report is ignored", "";
    OtlpInterval "telemetry.otlp_interval" Configuration Time(SECOND..=10 * MINUTE, 15 * SECOND),
        "Interval between exports", "";
    Flows "limits.flows" Configuration Count(1024..=1 << 24, MAX_FLOWS),
        "Capacity of the flow table", "";
    NatFlows "limits.nat_flows" Configuration Count(1024..=1 << 24, MAX_NAT_FLOWS),
        "Capacity of the nat table", "Without addresses in [nat] the default is 1024.";
    SourceV4Bits "admission.source_v4_bits" Configuration Count(8..=32, 32),
        "Prefix length that identifies an IPv4 source for per-source limits", "";
    SourceV6Bits "admission.source_v6_bits" Configuration Count(16..=128, 64),
        "Prefix length that identifies an IPv6 source for per-source limits", "";
    Generations "node.generations" Configuration Count(2..=1000, 10),
        "Number of applied configurations to keep for rollback", "";
    JournalMib "node.journal_mib" Configuration Count(1..=65_536, 64),
        "Approximate size limit of the journal in MiB", "";
    Log "log" Tune Filter,
        "Log filter: directives by level and target", "";
    LogDataPath "log.data_path" Tune Level(LogLevel::Off),
        "Level up to which the data path logs drops", "";
}

impl Setting {
    /// Returns the setting with this key that `steer tune` can change.
    #[must_use]
    pub fn tunable(key: &str) -> Option<Self> {
        Self::all_tunable().find(|setting| setting.key() == key)
    }

    /// Returns the settings that `steer tune` can change.
    pub fn all_tunable() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|setting| setting.is_tunable())
    }

    fn is_tunable(self) -> bool {
        matches!(self.scope(), Scope::Both | Scope::Tune)
    }

    /// Returns the settings of a document.
    pub(super) fn all_configured() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|setting| matches!(setting.scope(), Scope::Configuration | Scope::Both))
    }

    /// Returns the unit of its values: time, count, percent or filter.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self.range() {
            Range::Time(..) | Range::Idle(_) => "time",
            Range::Count(..) => "count",
            Range::Percent(..) => "percent",
            Range::Level(_) => "level",
            Range::Filter => "filter",
        }
    }

    /// Returns the values that it can have, in words.
    #[must_use]
    pub fn values(self) -> String {
        match self.range() {
            Range::Time(range, _) | Range::Idle(range) => {
                format!("{} to {}", time(*range.start()), time(*range.end()))
            }
            Range::Count(range, _) | Range::Percent(range, _) => {
                format!("{} to {}", range.start(), range.end())
            }
            Range::Level(_) => LogLevel::ALL.map(LogLevel::name).join(", "),
            Range::Filter => "like info or info,steer=debug".to_owned(),
        }
    }

    /// Returns the default, if it does not depend on anything else.
    #[must_use]
    pub fn default(self) -> Option<Value> {
        match self.range() {
            Range::Time(_, default) => Some(Value::Time(default)),
            Range::Count(_, default) | Range::Percent(_, default) => Some(Value::Count(default)),
            Range::Level(default) => Some(Value::Level(default)),
            Range::Idle(_) | Range::Filter => None,
        }
    }

    /// Returns the default of a time; zero for other settings.
    #[must_use]
    pub fn default_time(self) -> Duration {
        match self.range() {
            Range::Time(_, default) => default,
            Range::Idle(_)
            | Range::Count(..)
            | Range::Percent(..)
            | Range::Level(_)
            | Range::Filter => Duration::ZERO,
        }
    }

    /// Returns the text of the reference: description, range, default and notes.
    pub(super) fn reference(self) -> String {
        let default = self.default().map(|value| value.to_string());
        let default = default.map_or_else(String::new, |value| format!(" (default {value})"));
        let text = format!(
            "{}, {}{default}. {}",
            self.description(),
            self.values(),
            self.note()
        );
        text.trim_end().to_owned()
    }

    /// Parses a value; `None` if it is not one, or out of range.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        match self.range() {
            Range::Time(range, _) | Range::Idle(range) => {
                let time = parse_duration(text).ok()?;
                range.contains(&time).then_some(Value::Time(time))
            }
            Range::Count(range, _) | Range::Percent(range, _) => {
                let count = text.parse().ok()?;
                range.contains(&count).then_some(Value::Count(count))
            }
            Range::Level(_) => LogLevel::from_name(text).map(Value::Level),
            Range::Filter => Some(Value::Filter(text.to_owned())),
        }
    }
}

/// A value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A time.
    Time(Duration),
    /// A number or a percentage.
    Count(u32),
    /// A level of the data path's log.
    Level(LogLevel),
    /// Directives of a log filter.
    Filter(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(value) => f.write_str(&time(*value)),
            Self::Count(count) => write!(f, "{count}"),
            Self::Level(level) => f.write_str(level.name()),
            Self::Filter(text) => f.write_str(text),
        }
    }
}

/// Returns a duration in the notation of the configuration, without spaces.
fn time(time: Duration) -> String {
    format_duration(time).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Smallest document with a value at a key. The value is TOML.
    fn config(setting: Setting, value: &str) -> Result<Config, String> {
        let (section, key) = setting.key().split_once('.').unwrap();
        let node = "name = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n";
        let mut text = match section {
            "node" => format!("[node]\n{node}{key} = {value}\n"),
            _ => format!("[node]\n{node}[{section}]\n{key} = {value}\n"),
        };
        if section == "telemetry" {
            text += "otlp = \"http://127.0.0.1:4318\"\n";
        }
        Config::parse(&text, "steer.toml".as_ref()).map_err(|error| error.to_string())
    }

    fn toml(value: &Value) -> String {
        match value {
            Value::Count(count) => count.to_string(),
            Value::Time(_) | Value::Level(_) | Value::Filter(_) => format!("\"{value}\""),
        }
    }

    fn ends(setting: Setting) -> [Value; 2] {
        match setting.range() {
            Range::Level(_) => [LogLevel::Off, LogLevel::Debug].map(Value::Level),
            Range::Time(range, _) | Range::Idle(range) => {
                [*range.start(), *range.end()].map(Value::Time)
            }
            Range::Count(range, _) | Range::Percent(range, _) => {
                [*range.start(), *range.end()].map(Value::Count)
            }
            Range::Filter => unreachable!("it has no range"),
        }
    }

    /// Values just outside the range.
    fn outside(setting: Setting) -> Vec<Value> {
        let [least, most] = ends(setting);
        match (least, most) {
            (Value::Time(least), Value::Time(most)) => {
                let below = least.checked_sub(Duration::from_nanos(1));
                let values = below.into_iter().chain([most + Duration::from_nanos(1)]);
                values.map(Value::Time).collect()
            }
            (Value::Count(least), Value::Count(most)) => {
                let values = least.checked_sub(1).into_iter().chain(most.checked_add(1));
                values.map(Value::Count).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_range_and_advice() {
        for setting in Setting::all_configured() {
            for value in outside(setting) {
                let error = config(setting, &toml(&value)).unwrap_err();
                let advice = format!("write {} for `{}`", setting.values(), setting.key());
                assert!(error.contains("out of range"), "{advice}: {error}");
                assert!(error.contains(&advice), "{advice}: {error}");
            }
        }
        for setting in Setting::all_tunable().filter(|setting| *setting != Setting::Log) {
            for value in outside(setting) {
                assert_eq!(setting.parse(&value.to_string()), None, "{}", setting.key());
            }
            for value in ends(setting) {
                assert_eq!(setting.parse(&value.to_string()), Some(value));
            }
        }
    }

    #[test]
    fn the_ends_of_a_range_are_in_it() {
        for setting in Setting::all_configured() {
            for value in ends(setting) {
                let error = config(setting, &toml(&value)).err().unwrap_or_default();
                assert!(
                    !error.contains("out of range"),
                    "{}: {error}",
                    setting.key()
                );
            }
        }
    }

    #[test]
    fn a_default_is_in_its_range() {
        for setting in Setting::ALL {
            if let Some(default) = setting.default() {
                assert_eq!(setting.parse(&default.to_string()), Some(default));
            }
        }
    }
}
