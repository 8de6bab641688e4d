//! From a page of metrics to the signals of a profile.

use super::{
    page::Series,
    profile::{Profile, Selector},
};

/// What one page says. What it doesn't say, or can't mean, is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// Requests that are worked on.
    pub(super) running: Option<f64>,
    /// Requests that wait.
    pub(super) waiting: Option<f64>,
    /// Requests that can be worked on at once.
    pub(super) capacity: Option<f64>,
    /// Use of the KV cache.
    pub(super) kv_use: Option<f64>,
    /// Generated tokens since the engine began.
    pub(super) tokens: Option<f64>,
    /// Prompts' tokens since then.
    pub(super) prompt_tokens: Option<f64>,
    /// Requests set back since then.
    pub(super) preemptions: Option<f64>,
    /// Seconds to the first token since then.
    pub(super) first_token: Option<Histogram>,
    /// Seconds between tokens since then.
    pub(super) inter_token: Option<Histogram>,
    /// What changes while the engine works.
    pub(super) progress: Vec<f64>,
    /// Signals that the profile has names for, none of which is on the page.
    pub(super) missing: Vec<&'static str>,
    /// Values that can't be, with their series.
    pub(super) refused: Vec<String>,
}

/// A histogram, over all of its labels but `le`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Upper bounds, ascending, the last one infinite; and how many were up to there. Empty where
    /// the engine has only sum and count.
    pub(super) buckets: Vec<(f64, f64)>,
    /// The sum of what was observed.
    pub(super) sum: f64,
    /// How often.
    pub(super) count: f64,
}

/// How several series of one signal become one value.
#[derive(Clone, Copy)]
enum Join {
    Sum,
    /// Of shares the fullest one counts: an engine has one cache for each of its copies.
    Max,
}

impl Reading {
    /// What a page says by a profile.
    #[must_use]
    pub(super) fn of(series: &[Series], profile: &Profile) -> Self {
        let mut reading = Self::default();
        reading.running = reading.value(series, "running", &profile.running, Join::Sum);
        reading.waiting = reading.value(series, "waiting", &profile.waiting, Join::Sum);
        reading.capacity = reading.value(series, "capacity", &profile.capacity, Join::Sum);
        reading.kv_use = reading.value(series, "kv_use", &profile.kv_use, Join::Max);
        reading.tokens = reading.value(series, "tokens", &profile.tokens, Join::Sum);
        reading.prompt_tokens =
            reading.value(series, "prompt_tokens", &profile.prompt_tokens, Join::Sum);
        reading.preemptions = reading.value(series, "preemptions", &profile.preemptions, Join::Sum);
        reading.first_token = reading.histogram(series, "first_token", &profile.first_token);
        reading.inter_token = reading.histogram(series, "inter_token", &profile.inter_token);
        for selector in &profile.progress {
            let found = series.iter().filter(|s| selects(selector, s));
            // Each by itself: what one of them gains another one may lose.
            reading
                .progress
                .extend(found.map(|s| s.value).filter(|v| v.is_finite()));
        }
        if !profile.progress.is_empty() && reading.progress.is_empty() {
            reading.missing.push("progress");
        }
        reading
    }

    /// Whether it says anything of the load.
    #[must_use]
    pub(super) fn has_load(&self) -> bool {
        self.running.is_some() || self.waiting.is_some() || self.kv_use.is_some()
    }

    /// Requests in the engine, as far as it says.
    #[must_use]
    pub(super) fn in_flight(&self) -> Option<f64> {
        match (self.running, self.waiting) {
            (None, None) => None,
            (running, waiting) => Some(running.unwrap_or(0.0) + waiting.unwrap_or(0.0)),
        }
    }

    fn value(
        &mut self,
        series: &[Series],
        signal: &'static str,
        names: &[Selector],
        join: Join,
    ) -> Option<f64> {
        for selector in names {
            let mut joined: Option<f64> = None;
            for found in series.iter().filter(|s| selects(selector, s)) {
                let value = found.value * selector.factor;
                if !(value.is_finite() && value >= 0.0) {
                    self.refused.push(format!("{selector} is {}", found.value));
                    return None;
                }
                joined = Some(match (joined, join) {
                    (None, _) => value,
                    (Some(other), Join::Sum) => other + value,
                    (Some(other), Join::Max) => other.max(value),
                });
            }
            if joined.is_some() {
                return joined;
            }
        }
        if !names.is_empty() {
            self.missing.push(signal);
        }
        None
    }

    fn histogram(
        &mut self,
        series: &[Series],
        signal: &'static str,
        names: &[Selector],
    ) -> Option<Histogram> {
        for selector in names {
            match histogram(series, selector) {
                Ok(None) => {}
                Ok(found) => return found,
                Err(what) => {
                    self.refused.push(format!("{selector}: {what}"));
                    return None;
                }
            }
        }
        if !names.is_empty() {
            self.missing.push(signal);
        }
        None
    }
}

fn selects(selector: &Selector, series: &Series) -> bool {
    series.name == selector.name && has_labels(selector, series)
}

fn has_labels(selector: &Selector, series: &Series) -> bool {
    let mut labels = selector.labels.iter();
    labels.all(|(name, value)| series.labels.get(name) == Some(value))
}

fn histogram(series: &[Series], selector: &Selector) -> Result<Option<Histogram>, &'static str> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let (mut sum, mut count) = (None, None);
    for found in series.iter().filter(|s| has_labels(selector, s)) {
        let suffix = found.name.strip_prefix(selector.name.as_str());
        let Some(suffix @ ("_bucket" | "_sum" | "_count")) = suffix else {
            continue;
        };
        if !(found.value.is_finite() && found.value >= 0.0) {
            return Err("a value of it is no number of 0 or more");
        }
        match suffix {
            "_sum" => *sum.get_or_insert(0.0) += found.value * selector.factor,
            "_count" => *count.get_or_insert(0.0) += found.value,
            _ => {
                let bound = found.labels.get("le").ok_or("a bucket has no bound")?;
                let bound: f64 = match bound.as_str() {
                    "+Inf" => f64::INFINITY,
                    text => text.parse().map_err(|_| "a bound is no number")?,
                };
                if bound.is_nan() {
                    return Err("a bound is no number");
                }
                let bound = bound * selector.factor;
                match buckets.iter_mut().find(|(b, _)| *b == bound) {
                    Some((_, n)) => *n += found.value,
                    None => buckets.push((bound, found.value)),
                }
            }
        }
    }
    let (Some(sum), Some(count)) = (sum, count) else {
        if buckets.is_empty() && sum.is_none() && count.is_none() {
            return Ok(None);
        }
        return Err("sum or count is missing");
    };
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    if buckets.windows(2).any(|pair| pair[1].1 < pair[0].1) {
        return Err("a larger bucket has less in it");
    }
    if buckets.last().is_some_and(|(bound, _)| bound.is_finite()) {
        return Err("it has no last bucket");
    }
    Ok(Some(Histogram {
        buckets,
        sum,
        count,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::engine::{page, profile::Engine};

    fn read(engine: Engine, page: &str) -> Reading {
        let profile = Profile::of(engine).unwrap();
        let series = page::parse(page, |name| profile.wants(name)).unwrap();
        Reading::of(&series, &profile)
    }

    #[test]
    fn the_newest_name_on_the_page_counts_and_labels_are_joined() {
        let reading = read(
            Engine::Vllm,
            "vllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"1\"} 4\n\
             vllm:gpu_cache_usage_perc{engine=\"0\"} 0.9\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.2\n\
             vllm:kv_cache_usage_perc{engine=\"1\"} 0.3\n",
        );
        assert_eq!(reading.running, Some(7.0));
        assert_eq!(reading.kv_use, Some(0.3));
        assert_eq!(reading.waiting, None);
        assert!(reading.missing.contains(&"waiting"), "{reading:?}");
        assert!(
            !reading.missing.contains(&"capacity"),
            "the profile has no name for it"
        );
    }

    #[test]
    fn values_that_cannot_be_are_refused_and_nothing_stands_in_for_them() {
        for value in ["NaN", "-1", "+Inf", "-0.5"] {
            let page = format!(
                "vllm:kv_cache_usage_perc {value}\nvllm:gpu_cache_usage_perc 0.5\n\
                 vllm:num_requests_running 1\n"
            );
            let reading = read(Engine::Vllm, &page);
            assert_eq!(reading.kv_use, None, "{value}");
            assert_eq!(reading.running, Some(1.0));
            assert_eq!(reading.refused.len(), 1, "{value}");
        }
    }

    #[test]
    fn histograms_are_joined_over_labels_and_checked() {
        let name = "vllm:time_to_first_token_seconds";
        let page = |broken: &str| {
            format!(
                "{name}_bucket{{e=\"0\",le=\"0.1\"}} 1\n{name}_bucket{{e=\"0\",le=\"+Inf\"}} 3\n\
                 {name}_bucket{{e=\"1\",le=\"0.1\"}} 1\n{name}_bucket{{e=\"1\",le=\"+Inf\"}} 1\n\
                 {name}_sum{{e=\"0\"}} 2\n{name}_sum{{e=\"1\"}} 0.5\n{name}_count 4\n{broken}"
            )
        };
        let got = read(Engine::Vllm, &page("")).first_token.unwrap();
        assert_eq!(got.buckets, [(0.1, 2.0), (f64::INFINITY, 4.0)]);
        assert_eq!((got.sum, got.count), (2.5, 4.0));
        for broken in [
            format!("{name}_bucket{{le=\"0.2\"}} 1\n"),
            format!("{name}_bucket{{le=\"x\"}} 9\n"),
            format!("{name}_bucket 9\n"),
            format!("{name}_sum NaN\n"),
        ] {
            let reading = read(Engine::Vllm, &page(&broken));
            assert_eq!(reading.first_token, None, "{broken}");
            assert_eq!(reading.refused.len(), 1, "{broken}");
        }
    }
}
