//! Extraction of a profile's signals from a page of metrics.

use std::collections::BTreeMap;

use super::{
    exposition::{Exposition, Series},
    histogram::Histogram,
    profile::Profile,
    ranks,
    selector::Selector,
};

/// Signals of one page. A missing or implausible value is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EngineSignals {
    /// Requests being processed.
    pub(super) running: Option<f64>,
    /// Requests in the queue.
    pub(super) waiting: Option<f64>,
    /// Maximum number of concurrent requests.
    pub(super) capacity: Option<f64>,
    /// Utilization of the KV cache.
    pub(super) kv_use: Option<f64>,
    /// Tokens generated since the engine started.
    pub(super) tokens: Option<f64>,
    /// Prompt tokens since then.
    pub(super) prompt_tokens: Option<f64>,
    /// Preemptions since then.
    pub(super) preemptions: Option<f64>,
    /// Times to the first token since then, in seconds.
    pub(super) first_token: Option<Histogram>,
    /// Times between tokens since then, in seconds.
    pub(super) inter_token: Option<Histogram>,
    /// Values that change while the engine works.
    pub(super) progress: Vec<ProgressMark>,
    /// Data-parallel ranks by name, if there are any.
    pub(super) ranks: BTreeMap<String, Rank>,
    /// Whether it sleeps, if it reports that.
    pub(super) asleep: Option<bool>,
    /// Signals in the profile for which the page has no series.
    pub(super) missing: Vec<&'static str>,
    /// Implausible values with their series.
    pub(super) refused: Vec<String>,
}

/// A value that changes while the engine works.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ProgressMark {
    /// Rank; empty if it has none.
    pub(super) rank: String,
    /// Value.
    pub(super) value: f64,
    /// Smallest change that its digits show, if that is more than 1.
    pub(super) step: f64,
}

/// Load of one data-parallel rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rank {
    /// Requests that it processes.
    pub(super) running: Option<f64>,
    /// Requests in its queue.
    pub(super) waiting: Option<f64>,
    /// Utilization of its KV cache.
    pub(super) kv_use: Option<f64>,
}

impl Rank {
    /// Returns the number of its requests.
    pub(super) fn in_flight(&self) -> f64 {
        self.running.unwrap_or(0.0) + self.waiting.unwrap_or(0.0)
    }
}

/// The most that may be used of a whole; engines round.
const MAX_SHARE: f64 = 1.1;

/// Aggregation of a signal over ranks.
#[derive(Clone, Copy, PartialEq)]
enum Join {
    Sum,
    /// Mean: each rank has a cache of its own, so the mean is the utilization of the whole.
    Mean,
}

impl EngineSignals {
    /// Extracts the signals of a page by a profile.
    #[must_use]
    pub(super) fn from_page(page: &Exposition, profile: &Profile) -> Self {
        let mut reading = Self::default();
        let running = reading.ranks(page, "running", &profile.running, Join::Sum);
        let waiting = reading.ranks(page, "waiting", &profile.waiting, Join::Sum);
        let kv_use = reading.ranks(page, "kv_use", &profile.kv_use, Join::Mean);
        let in_flight = reading.value(page, "in_flight", &profile.in_flight);
        reading.running = joined(running.as_ref(), Join::Sum);
        reading.waiting = joined(waiting.as_ref(), Join::Sum);
        reading.kv_use = joined(kv_use.as_ref(), Join::Mean);
        if let (None, Some(all)) = (reading.running, in_flight) {
            reading.running = Some((all - reading.waiting.unwrap_or(0.0)).max(0.0));
        }
        reading.capacity = reading.value(page, "capacity", &profile.capacity);
        reading.tokens = reading.value(page, "tokens", &profile.tokens);
        reading.prompt_tokens = reading.value(page, "prompt_tokens", &profile.prompt_tokens);
        reading.preemptions = reading.value(page, "preemptions", &profile.preemptions);
        reading.first_token = reading.histogram(page, "first_token", &profile.first_token);
        reading.inter_token = reading.histogram(page, "inter_token", &profile.inter_token);
        reading.asleep = profile.sleep.as_ref().and_then(|sleep| {
            let metric = sleep.metric.as_ref()?;
            let found = page.series.iter().find(|s| metric.selects(s))?;
            Some(found.value == sleep.value)
        });
        reading.progress = marks(page, profile);
        if !profile.progress.is_empty() && reading.progress.is_empty() {
            reading.missing.push("progress");
        }
        for (rank, value) in running.into_iter().flatten() {
            reading.ranks.entry(rank).or_default().running = Some(value);
        }
        for (rank, value) in waiting.into_iter().flatten() {
            reading.ranks.entry(rank).or_default().waiting = Some(value);
        }
        for (rank, value) in kv_use.into_iter().flatten() {
            reading.ranks.entry(rank).or_default().kv_use = Some(value);
        }
        reading
    }

    /// Returns whether it has any part of the load.
    #[must_use]
    pub(super) fn has_load(&self) -> bool {
        self.running.is_some() || self.waiting.is_some() || self.kv_use.is_some()
    }

    /// Returns the number of requests in the engine, if known.
    #[must_use]
    pub(super) fn in_flight(&self) -> Option<f64> {
        match (self.running, self.waiting) {
            (None, None) => None,
            (running, waiting) => Some(running.unwrap_or(0.0) + waiting.unwrap_or(0.0)),
        }
    }

    fn value(
        &mut self,
        page: &Exposition,
        signal: &'static str,
        names: &[Selector],
    ) -> Option<f64> {
        joined(
            self.ranks(page, signal, names, Join::Sum).as_ref(),
            Join::Sum,
        )
    }

    /// Returns the values of a signal by rank, from the first of its names on the page.
    fn ranks(
        &mut self,
        page: &Exposition,
        signal: &'static str,
        names: &[Selector],
        join: Join,
    ) -> Option<BTreeMap<String, f64>> {
        for selector in names {
            if self.is_broken(page, selector, &[""]) {
                return None;
            }
            let mut found = Vec::new();
            for series in page.series.iter().filter(|s| selector.selects(s)) {
                let value = series.value * selector.factor;
                if !(value.is_finite() && value >= 0.0) {
                    self.refused.push(format!("{selector} is {}", series.value));
                    return None;
                }
                if join == Join::Mean && value > MAX_SHARE {
                    self.refused.push(format!(
                        "{selector} is {}, and 1 is all of the cache: a profile can name it `{} * 0.01` if these \
                         are percents",
                        series.value, selector.name
                    ));
                    return None;
                }
                found.push((series, value));
            }
            if !found.is_empty() {
                return Some(ranks::by_rank(found.into_iter(), join == Join::Mean));
            }
        }
        if !names.is_empty() {
            self.missing.push(signal);
        }
        None
    }

    /// Returns whether a line of that name is invalid, and reports it then.
    fn is_broken(&mut self, page: &Exposition, selector: &Selector, suffixes: &[&str]) -> bool {
        let is_of = |name: &str| {
            let suffix = name.strip_prefix(selector.name.as_str());
            suffix.is_some_and(|suffix| suffixes.contains(&suffix))
        };
        let broken = page.broken.iter().find(|(name, _)| is_of(name));
        if let Some((name, what)) = broken {
            self.refused.push(format!("{name}: {what}"));
        }
        broken.is_some()
    }

    fn histogram(
        &mut self,
        page: &Exposition,
        signal: &'static str,
        names: &[Selector],
    ) -> Option<Histogram> {
        for selector in names {
            if self.is_broken(page, selector, &["_bucket", "_sum", "_count"]) {
                return None;
            }
            match Histogram::of(&page.series, selector) {
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

/// Combines the values of all ranks.
fn joined(ranks: Option<&BTreeMap<String, f64>>, join: Join) -> Option<f64> {
    let ranks = ranks?;
    let sum: f64 = ranks.values().sum();
    Some(match join {
        Join::Sum => sum,
        Join::Mean => sum / ranks.len() as f64,
    })
}

/// Returns all values that change while the engine works: counters, and the utilization of the KV
/// cache, which grows while it reads a prompt. They stay separate, because one may lose what
/// another gains.
fn marks(page: &Exposition, profile: &Profile) -> Vec<ProgressMark> {
    if profile.progress.is_empty() {
        return Vec::new();
    }
    let wanted = |series: &&Series| {
        let selected = |selector: &Selector| selector.selects(series);
        profile.progress.iter().chain(&profile.kv_use).any(selected)
    };
    let found = page.series.iter().filter(wanted);
    found
        .filter(|series| series.value.is_finite())
        .map(|series| ProgressMark {
            rank: ranks::rank(series),
            value: series.value,
            step: series.step,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::beacon::engine::{Engine, tests::read};

    #[test]
    fn the_newest_name_on_the_page_counts_and_labels_are_joined() {
        let reading = read(
            Engine::Vllm,
            "vllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"1\"} 4\n\
             vllm:gpu_cache_usage_perc{engine=\"0\"} 0.9\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.2\n\
             vllm:kv_cache_usage_perc{engine=\"1\"} 0.3\n",
        );
        assert_eq!(reading.running, Some(7.0));
        assert_eq!(reading.kv_use, Some(0.25), "the mean of both");
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
    fn a_share_in_percents_is_refused_with_what_to_write() {
        let reading = read(
            Engine::Vllm,
            "vllm:kv_cache_usage_perc 37.5\nvllm:num_requests_running 1\n",
        );
        assert_eq!(reading.kv_use, None);
        let [said] = &reading.refused[..] else {
            panic!("{:?}", reading.refused);
        };
        assert!(said.contains("vllm:kv_cache_usage_perc * 0.01"), "{said}");
        // Rounded up.
        let page = "vllm:kv_cache_usage_perc 1.004\nvllm:num_requests_running 1\n";
        assert!(read(Engine::Vllm, page).kv_use.is_some());
    }
}
