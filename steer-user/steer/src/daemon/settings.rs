//! Settings that a running daemon changes at once: `steer tune`.

use std::{fmt, ops::RangeInclusive, time::Duration};

use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde::{Deserialize, Serialize};
use steer_common::{abi::Config as Settings, data_path_log::LogLevel};
use steer_core::{config::Config, control::Tuning};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// A setting that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// From one ping to the next.
    ProbeInterval,
    /// Longest wait for an answer.
    ProbeTimeout,
    /// From one full handshake to the next.
    ProbeHandshakeEvery,
    /// Answers in a row that make a backend up.
    ProbeRise,
    /// Failures in a row that make it down.
    ProbeFall,
    /// Time that a nat flow of TCP is kept without a packet.
    NatIdle,
    /// The same of UDP.
    NatUdpIdle,
    /// Time that a nat flow keeps its port before its client has gone on after an answer.
    NatOpening,
    /// Time that a nat flow keeps its port after it is over.
    NatClosed,
    /// After how long without an answer a nat flow counts as silent.
    NatSilence,
    /// Time after which the retransmission of an unanswered SYN goes to another backend.
    NatRetry,
    /// From one sweep of the flow and nat tables to the next.
    SweepEvery,
    /// From this use on a backend is hot.
    HotAbove,
    /// Below this use it is hot no longer.
    HotBelow,
    /// Above this use new flows spill to the next ring.
    SpillAbove,
    /// Below this use they come back.
    SpillBelow,
    /// Log filter.
    Log,
    /// Level of records of the data path.
    LogDataPath,
}

/// Range of values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Range {
    Time(RangeInclusive<Duration>),
    Count(RangeInclusive<u32>),
    Percent(RangeInclusive<u32>),
    Level,
    Filter,
}

impl Knob {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 18] = [
        Self::ProbeInterval,
        Self::ProbeTimeout,
        Self::ProbeHandshakeEvery,
        Self::ProbeRise,
        Self::ProbeFall,
        Self::NatOpening,
        Self::NatClosed,
        Self::NatSilence,
        Self::NatIdle,
        Self::NatUdpIdle,
        Self::NatRetry,
        Self::SweepEvery,
        Self::HotAbove,
        Self::HotBelow,
        Self::SpillAbove,
        Self::SpillBelow,
        Self::Log,
        Self::LogDataPath,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProbeInterval => "probe.interval",
            Self::ProbeTimeout => "probe.timeout",
            Self::ProbeHandshakeEvery => "probe.handshake_every",
            Self::ProbeRise => "probe.rise",
            Self::ProbeFall => "probe.fall",
            Self::NatIdle => "nat.idle",
            Self::NatUdpIdle => "nat.udp_idle",
            Self::NatOpening => "nat.opening_timeout",
            Self::NatClosed => "nat.closed_timeout",
            Self::NatSilence => "nat.silence",
            Self::NatRetry => "nat.retry",
            Self::SweepEvery => "sweep.every",
            Self::HotAbove => "balance.hot_above",
            Self::HotBelow => "balance.hot_below",
            Self::SpillAbove => "balance.spill_above",
            Self::SpillBelow => "balance.spill_below",
            Self::Log => "log",
            Self::LogDataPath => "log.data_path",
        }
    }

    /// Description in a few words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::ProbeInterval => "from one ping to the next",
            Self::ProbeTimeout => "longest wait for an answer",
            Self::ProbeHandshakeEvery => "from one full handshake to the next",
            Self::ProbeRise => "answers in a row that make a backend up",
            Self::ProbeFall => "failures in a row that make it down",
            Self::NatIdle => "how long a nat flow of TCP is kept without a packet",
            Self::NatUdpIdle => "how long a nat flow of UDP is kept without a packet",
            Self::NatOpening => "how long a nat flow keeps its port before its client goes on",
            Self::NatClosed => "how long a nat flow keeps its port after it is over",
            Self::NatSilence => "after how long without an answer a nat flow counts as silent",
            Self::NatRetry => "how long a SYN is unanswered before the next one goes elsewhere",
            Self::SweepEvery => "from one sweep of the flow tables to the next",
            Self::HotAbove => "from this use on a backend is hot",
            Self::HotBelow => "below this use it is hot no longer",
            Self::SpillAbove => "above this use new flows spill to the next ring",
            Self::SpillBelow => "below this use they come back",
            Self::Log => "what is logged: filter directives",
            Self::LogDataPath => "level up to which the data path logs drops",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|knob| knob.name() == name)
    }

    /// Returns whether a value stays when a configuration is applied or read again. Those that the configuration
    /// has do not; none outlives the daemon.
    #[must_use]
    pub const fn outlives_reload(self) -> bool {
        !matches!(
            self,
            Self::ProbeInterval
                | Self::ProbeTimeout
                | Self::ProbeHandshakeEvery
                | Self::ProbeRise
                | Self::ProbeFall
                | Self::NatOpening
                | Self::NatClosed
                | Self::NatSilence
                | Self::HotAbove
                | Self::HotBelow
                | Self::SpillAbove
                | Self::SpillBelow
        )
    }

    fn range(self) -> Range {
        match self {
            Self::ProbeInterval => Range::Time(10 * MS..=MINUTE),
            Self::ProbeTimeout => Range::Time(MS..=MINUTE),
            Self::ProbeHandshakeEvery => Range::Time(SECOND..=DAY),
            Self::ProbeRise | Self::ProbeFall => Range::Count(1..=100),
            Self::NatIdle | Self::NatUdpIdle => Range::Time(SECOND..=7 * DAY),
            Self::NatOpening | Self::NatClosed => Range::Time(SECOND..=10 * MINUTE),
            Self::NatSilence => Range::Time(100 * MS..=60 * MINUTE),
            Self::NatRetry => Range::Time(50 * MS..=MINUTE),
            Self::SweepEvery => Range::Time(SECOND..=10 * MINUTE),
            Self::HotAbove | Self::SpillAbove => Range::Percent(1..=100),
            Self::HotBelow | Self::SpillBelow => Range::Percent(0..=100),
            Self::Log => Range::Filter,
            Self::LogDataPath => Range::Level,
        }
    }

    /// Unit of its values.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self.range() {
            Range::Time(_) => "time",
            Range::Count(_) => "count",
            Range::Percent(_) => "percent",
            Range::Level => "level",
            Range::Filter => "filter",
        }
    }

    /// The values that it can have, in words.
    #[must_use]
    pub fn values(self) -> String {
        match self.range() {
            Range::Time(range) => format!("{} to {}", time(*range.start()), time(*range.end())),
            Range::Count(range) | Range::Percent(range) => {
                format!("{} to {}", range.start(), range.end())
            }
            Range::Level => LogLevel::ALL.map(LogLevel::name).join(", "),
            Range::Filter => "like info or info,steer=debug".to_owned(),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// If it is none, or out of range.
    pub(crate) fn parse(self, text: &str) -> Result<Value, TuneError> {
        let wrong = || TuneError::Value {
            knob: self,
            value: text.to_owned(),
        };
        match self.range() {
            Range::Time(range) => {
                let time = parse_duration(text).map_err(|_| wrong())?;
                range.contains(&time).then_some(Value::Time(time))
            }
            Range::Count(range) | Range::Percent(range) => {
                let count = text.parse().map_err(|_| wrong())?;
                range.contains(&count).then_some(Value::Count(count))
            }
            Range::Level => LogLevel::from_name(text).map(Value::Level),
            Range::Filter => Some(Value::Filter(text.to_owned())),
        }
        .ok_or_else(wrong)
    }
}

/// A value of a knob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A time.
    Time(Duration),
    /// A number.
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

fn time(time: Duration) -> String {
    format_duration(time).to_string().replace(' ', "")
}

/// Reason why a knob was not set.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// No knob has that name.
    #[error("no setting is called \"{0}\"; `steer tune list` names them")]
    Unknown(String),
    /// The value is none, or out of range.
    #[error("{}: \"{value}\" is not a value; write {}", knob.name(), knob.values())]
    Value {
        /// The knob.
        knob: Knob,
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

/// A knob as it is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KnobStatus {
    /// Its name.
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

/// The value of a knob that the configuration does not have.
pub(crate) fn tuned(tuning: &mut Tuning, knob: Knob) -> Option<&mut Option<Duration>> {
    match knob {
        Knob::NatIdle => Some(&mut tuning.nat_idle),
        Knob::NatUdpIdle => Some(&mut tuning.nat_udp_idle),
        Knob::NatRetry => Some(&mut tuning.nat_retry),
        Knob::SweepEvery => Some(&mut tuning.gc_interval),
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

/// Sets what a configuration has; whether the knob is one of that.
pub(crate) fn set(config: &mut Config, knob: Knob, value: &Value) -> bool {
    let Config {
        probe,
        nat,
        balance,
        ..
    } = config;
    match (knob, value) {
        (Knob::ProbeInterval, Value::Time(time)) => probe.interval = *time,
        (Knob::ProbeTimeout, Value::Time(time)) => probe.timeout = *time,
        (Knob::ProbeHandshakeEvery, Value::Time(time)) => probe.handshake_every = *time,
        (Knob::ProbeRise, Value::Count(count)) => probe.rise = *count,
        (Knob::ProbeFall, Value::Count(count)) => probe.fall = *count,
        (Knob::NatOpening, Value::Time(time)) => nat.opening_timeout = *time,
        (Knob::NatClosed, Value::Time(time)) => nat.closed_timeout = *time,
        (Knob::NatSilence, Value::Time(time)) => nat.silence = *time,
        (Knob::HotAbove, Value::Count(percent)) => balance.hot_above = *percent,
        (Knob::HotBelow, Value::Count(percent)) => balance.hot_below = *percent,
        (Knob::SpillAbove, Value::Count(percent)) => balance.spill_above = *percent,
        (Knob::SpillBelow, Value::Count(percent)) => balance.spill_below = *percent,
        _ => return false,
    }
    true
}

/// The value that a knob has by a configuration and settings; the log's filter is not known here.
pub(crate) fn value(
    knob: Knob,
    config: &Config,
    settings: &Settings,
    gc_interval: Duration,
) -> Value {
    let ticks = |ticks: u32| Value::Time(Duration::from_millis(u64::from(ticks)));
    match knob {
        Knob::ProbeInterval => Value::Time(config.probe.interval),
        Knob::ProbeTimeout => Value::Time(config.probe.timeout),
        Knob::ProbeHandshakeEvery => Value::Time(config.probe.handshake_every),
        Knob::ProbeRise => Value::Count(config.probe.rise),
        Knob::ProbeFall => Value::Count(config.probe.fall),
        Knob::NatOpening => Value::Time(config.nat.opening_timeout),
        Knob::NatClosed => Value::Time(config.nat.closed_timeout),
        Knob::NatSilence => Value::Time(config.nat.silence),
        Knob::NatIdle => ticks(settings.nat_timeouts.idle_ticks),
        Knob::NatUdpIdle => ticks(settings.nat_timeouts.udp_idle_ticks),
        Knob::NatRetry => ticks(settings.nat_retry_ticks),
        Knob::SweepEvery => Value::Time(gc_interval),
        Knob::HotAbove => Value::Count(config.balance.hot_above),
        Knob::HotBelow => Value::Count(config.balance.hot_below),
        Knob::SpillAbove => Value::Count(config.balance.spill_above),
        Knob::SpillBelow => Value::Count(config.balance.spill_below),
        Knob::Log => Value::Filter(String::new()),
        Knob::LogDataPath => Value::Level(LogLevel::Off),
    }
}
