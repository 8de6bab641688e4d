//! Load reported by a backend's engine, limited to plausible numbers.

use serde::{Deserialize, Serialize};

use super::{Hint, Note, OrcaLoadReport};

/// Named metric: reason for a missing engine signal, the number of a [`NoSignal`].
pub const NO_SIGNAL: &str = "no_signal";
/// Named metric: a weak sign of trouble, the number of a [`Hint`].
pub const HINT: &str = "hint";
/// Named metric: duration of the hint in seconds.
pub const HINT_FOR: &str = "hint_for";
/// Named metric: notes about the load for a person, the sum of the numbers of [`Note`]s.
pub const NOTES: &str = "notes";

/// Upper bound of requests or tokens at a time in any engine.
const MAX_COUNT: f64 = 1e7;
/// Upper bound of a share. Slightly more than 1 is rounding; more than this is an error.
const MAX_SHARE: f64 = 1.05;
/// Upper bound of durations: one day in seconds.
const MAX_SECONDS: f64 = 86_400.0;
/// Upper bound of tokens per second, above that of the largest machines.
const MAX_RATE: f64 = 1e9;

/// Load of one backend. `None` means unknown, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// Requests that the engine processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<f64>,
    /// Requests that wait in the engine's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<f64>,
    /// Number of waiting requests that is too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Requests in the engine, running or waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<f64>,
    /// Maximum number of requests processed concurrently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// Utilization of the KV cache, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_use: Option<f64>,
    /// Recent median of the time to the first token in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_p50: Option<f64>,
    /// Recent 95th percentile of the time to the first token in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_p95: Option<f64>,
    /// Recent mean of the time to the first token in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_mean: Option<f64>,
    /// Recent median of the time between tokens in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inter_token_p50: Option<f64>,
    /// Recent 95th percentile of the time between tokens in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inter_token_p95: Option<f64>,
    /// Recent mean of the time between tokens in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inter_token_mean: Option<f64>,
    /// Generated tokens per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Prompt tokens per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_per_second: Option<f64>,
    /// Requests per second that the engine preempted for lack of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemptions_per_second: Option<f64>,
    /// Seconds since the beacon read the engine; `None` if it reads none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// CPU utilization of the machine; 1 is full, and it may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory utilization of the machine, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// Reason why the engine's part is unknown, if the beacon should know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_signal: Option<NoSignal>,
    /// Weak sign of trouble with the engine, and its duration in seconds. Not a verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<(Hint, f64)>,
    /// Notes about the load for a person.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// Name and value of an implausible number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Reason for a missing engine load. The numbers are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoSignal {
    /// The beacon has just started.
    #[error("the engine's metrics were not read yet")]
    NotYet = 1,
    /// The engine's metrics cannot be fetched.
    #[error("the engine's metrics cannot be fetched; the beacon's log has the reason")]
    Unreachable = 2,
    /// The engine's response is no page of metrics.
    #[error("the engine's metrics cannot be read; the beacon's log has the reason")]
    Malformed = 3,
    /// The page has none of the names in the profile.
    #[error(
        "the engine has none of the metrics in the profile: it may have been upgraded, or be \
         another engine; the beacon's log names them"
    )]
    Renamed = 4,
    /// The last page is too old.
    #[error("the engine's metrics are too old")]
    Stale = 5,
    /// A reason unknown to this version.
    #[error("the beacon reports a reason unknown to this version")]
    Other = 6,
    /// A tiny completion is overdue or failed, whatever the engine's metrics say.
    #[error("the engine does not answer a tiny completion, so its reported load is ignored")]
    Doubted = 7,
}

impl NoSignal {
    fn from_number(number: f64) -> Self {
        let known = [
            Self::NotYet,
            Self::Unreachable,
            Self::Malformed,
            Self::Renamed,
            Self::Stale,
            Self::Doubted,
        ];
        let found = known.into_iter().find(|r| number == f64::from(*r as u8));
        found.unwrap_or(Self::Other)
    }
}

/// Description of one number: its key in a report, its upper bound, and its field.
struct Field {
    key: &'static str,
    most: f64,
    place: fn(&mut Load) -> &mut Option<f64>,
}

const fn field(key: &'static str, most: f64, place: fn(&mut Load) -> &mut Option<f64>) -> Field {
    Field { key, most, place }
}

const FIELDS: [Field; 16] = [
    field("running", MAX_COUNT, |l| &mut l.running),
    field("waiting", MAX_COUNT, |l| &mut l.waiting),
    field("limit", MAX_COUNT, |l| &mut l.limit),
    field("in_flight", MAX_COUNT, |l| &mut l.in_flight),
    field("capacity", MAX_COUNT, |l| &mut l.capacity),
    field("kv_use", MAX_SHARE, |l| &mut l.kv_use),
    field("ttft_p50", MAX_SECONDS, |l| &mut l.first_token_p50),
    field("ttft_p95", MAX_SECONDS, |l| &mut l.first_token_p95),
    field("ttft_mean", MAX_SECONDS, |l| &mut l.first_token_mean),
    field("itl_p50", MAX_SECONDS, |l| &mut l.inter_token_p50),
    field("itl_p95", MAX_SECONDS, |l| &mut l.inter_token_p95),
    field("itl_mean", MAX_SECONDS, |l| &mut l.inter_token_mean),
    field("tokens_s", MAX_RATE, |l| &mut l.tokens_per_second),
    field("prompt_tokens_s", MAX_RATE, |l| {
        &mut l.prompt_tokens_per_second
    }),
    field("preemptions_s", MAX_RATE, |l| &mut l.preemptions_per_second),
    // A beacon reports the age even after it could not read its engine for a year.
    field("age", 366.0 * MAX_SECONDS, |l| &mut l.age),
];

impl Load {
    /// Parses a report. An implausible number (not finite, negative, above its bound, a limit of 0)
    /// is skipped, and the last such one is named in [`Self::refused`].
    #[must_use]
    pub fn parse(report: &OrcaLoadReport) -> Self {
        let mut load = Self::default();
        for Field { key, most, place } in &FIELDS {
            let Some(value) = report.named_metrics.get(*key).copied() else {
                continue;
            };
            let divisor = matches!(*key, "limit" | "capacity");
            if !(0.0..=*most).contains(&value) || (divisor && value == 0.0) {
                load.refused = Some(format!("{key} is {value}"));
            } else if *key == "kv_use" {
                load.kv_use = Some(value.min(1.0));
            } else {
                *place(&mut load) = Some(value);
            }
        }
        let (cpu, memory) = (report.cpu_utilization, report.mem_utilization);
        // Zero memory in use means that nothing is reported.
        if memory > 0.0 && memory <= MAX_SHARE && (0.0..=MAX_COUNT).contains(&cpu) {
            (load.cpu, load.memory) = (Some(cpu), Some(memory.min(1.0)));
        }
        let why = report.named_metrics.get(NO_SIGNAL).copied();
        load.no_signal = why.filter(|why| *why != 0.0).map(NoSignal::from_number);
        let metric = |key: &str| report.named_metrics.get(key).copied();
        let hint = metric(HINT).filter(|hint| *hint != 0.0);
        let since = metric(HINT_FOR).unwrap_or(0.0);
        load.hint = hint.map(|hint| {
            (
                Hint::from_number(hint),
                since.clamp(0.0, 366.0 * MAX_SECONDS),
            )
        });
        load.notes = metric(NOTES).map(Note::from_number).unwrap_or_default();
        load
    }

    /// Writes the load into a report, from which [`Self::parse`] reads it.
    pub fn write(mut self, report: &mut OrcaLoadReport) {
        for Field { key, place, .. } in &FIELDS {
            if let Some(value) = *place(&mut self) {
                report.named_metrics.insert((*key).to_owned(), value);
            }
        }
        if let Some(why) = self.no_signal {
            let number = f64::from(why as u8);
            report.named_metrics.insert(NO_SIGNAL.to_owned(), number);
        }
        if let Some((hint, seconds)) = self.hint {
            let number = f64::from(hint as u8);
            report.named_metrics.insert(HINT.to_owned(), number);
            report.named_metrics.insert(HINT_FOR.to_owned(), seconds);
        }
        if !self.notes.is_empty() {
            let number = Note::number(&self.notes);
            report.named_metrics.insert(NOTES.to_owned(), number);
        }
        // One of them alone could not be told from zero.
        if let (Some(cpu), Some(memory)) = (self.cpu, self.memory) {
            (report.cpu_utilization, report.mem_utilization) = (cpu, memory);
        }
    }

    /// Returns whether anything is known of the engine's load.
    #[must_use]
    pub fn has_signal(&self) -> bool {
        let known = [self.running, self.waiting, self.in_flight, self.kv_use];
        known.iter().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut load = Load {
            no_signal: Some(NoSignal::Renamed),
            cpu: Some(0.5),
            memory: Some(0.25),
            hint: Some((Hint::RankStuck, 7.5)),
            notes: vec![Note::NoQueueLimit, Note::Asleep, Note::Full],
            ..Load::default()
        };
        for (index, field) in FIELDS.iter().enumerate() {
            *(field.place)(&mut load) = Some(index as f64 / 16.0 + 0.0625);
        }
        let mut report = OrcaLoadReport::default();
        load.clone().write(&mut report);
        assert_eq!(report.named_metrics.len(), FIELDS.len() + 4);
        assert_eq!(Load::parse(&report), load);
        let text = serde_json::to_string(&load).unwrap();
        assert_eq!(serde_json::from_str::<Load>(&text).unwrap(), load);
    }

    #[test]
    fn what_nobody_says_is_unknown_and_not_zero() {
        let load = Load::parse(&OrcaLoadReport::default());
        assert_eq!(load, Load::default());
        assert!(!load.has_signal());
        assert_eq!(serde_json::to_string(&load).unwrap(), "{}");
    }

    #[test]
    fn numbers_that_cannot_be_are_left_out_and_named() {
        for (key, value) in [
            ("running", f64::NAN),
            ("running", -1.0),
            ("waiting", f64::INFINITY),
            ("waiting", 1e8),
            ("kv_use", 1.2),
            ("capacity", 0.0),
            ("limit", 0.0),
            ("ttft_p95", 100_000.0),
        ] {
            let mut report = OrcaLoadReport::default();
            report.named_metrics.insert("in_flight".to_owned(), 3.0);
            report.named_metrics.insert(key.to_owned(), value);
            let want = Load {
                in_flight: Some(3.0),
                refused: Some(format!("{key} is {value}")),
                ..Load::default()
            };
            assert_eq!(Load::parse(&report), want, "{key} {value}");
        }
    }

    #[test]
    fn a_reason_of_a_later_version_is_a_reason() {
        let mut report = OrcaLoadReport::default();
        report.named_metrics.insert(NO_SIGNAL.to_owned(), 77.0);
        assert_eq!(Load::parse(&report).no_signal, Some(NoSignal::Other));
        report.named_metrics.insert(NO_SIGNAL.to_owned(), 0.0);
        assert_eq!(Load::parse(&report).no_signal, None);
        report.named_metrics.insert(HINT.to_owned(), 77.0);
        report.named_metrics.insert(HINT_FOR.to_owned(), f64::MAX);
        report.named_metrics.insert(NOTES.to_owned(), 1025.0);
        let load = Load::parse(&report);
        assert_eq!(load.hint, Some((Hint::Other, 366.0 * MAX_SECONDS)));
        assert_eq!(load.notes, [Note::NoQueueLimit]);
    }
}
