//! Histograms on a page of metrics.

use super::{exposition::Series, selector::Selector};

/// A histogram over all labels except `le`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Upper bounds in ascending order, the last one infinite, with cumulative counts. Empty if the
    /// engine has only sum and count.
    pub(super) buckets: Vec<(f64, f64)>,
    /// Sum of the samples.
    pub(super) sum: f64,
    /// Number of samples.
    pub(super) count: f64,
}

impl Histogram {
    /// Returns the histogram that a selector names, or `None` if the page has none.
    ///
    /// # Errors
    ///
    /// Describes why the series are no histogram.
    pub(super) fn of(series: &[Series], selector: &Selector) -> Result<Option<Self>, &'static str> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let (mut sum, mut count) = (None, None);
        for found in series.iter().filter(|s| selector.has_labels(s)) {
            let suffix = found.name.strip_prefix(selector.name.as_str());
            let Some(suffix @ ("_bucket" | "_sum" | "_count")) = suffix else {
                continue;
            };
            if !(found.value.is_finite() && found.value >= 0.0) {
                return Err("a value of it is not a number of 0 or more");
            }
            match suffix {
                "_sum" => *sum.get_or_insert(0.0) += found.value * selector.factor,
                "_count" => *count.get_or_insert(0.0) += found.value,
                _ => {
                    let bound = found.labels.get("le").ok_or("a bucket has no bound")?;
                    let bound: f64 = match bound.as_str() {
                        "+Inf" => f64::INFINITY,
                        text => text.parse().map_err(|_| "a bound is not a number")?,
                    };
                    if bound.is_nan() {
                        return Err("a bound is not a number");
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
            return Err("a larger bucket has a smaller count");
        }
        if buckets.last().is_some_and(|(bound, _)| bound.is_finite()) {
            return Err("it has no last bucket");
        }
        Ok(Some(Self {
            buckets,
            sum,
            count,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::beacon::engine::{Engine, tests::read};

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
