//! Aggregation over ranks, which either share requests or have their own.

use std::collections::BTreeMap;

use super::exposition::Series;

/// Labels of data-parallel ranks: each has requests of its own.
const REPLICAS: [&str; 4] = ["engine", "dp_rank", "ReplicaId", "WorkerId"];
/// Labels of shards of one copy of the model: all of them work on the same requests.
const SHARDS: [&str; 6] = [
    "tp_rank",
    "pp_rank",
    "cp_rank",
    "ep_rank",
    "moe_ep_rank",
    "attn_tp_rank",
];
/// Label whose empty value stands for the sum of all others (SGLang with priorities).
const PRIORITY: &str = "priority";

/// Labels that identify a copy of a model, with their values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Returns the name of the data-parallel rank of a series; empty if it has none.
#[must_use]
pub(super) fn rank(series: &Series) -> String {
    let values = REPLICAS.iter().filter_map(|name| series.labels.get(*name));
    values.cloned().collect::<Vec<_>>().join("/")
}

/// Combines the series of one signal into one value per rank. Shards of one copy count once, with
/// their maximum; other labels (a model, a class) are summed, or averaged if `mean`.
#[must_use]
pub(super) fn by_rank<'a>(
    series: impl Iterator<Item = (&'a Series, f64)>,
    mean: bool,
) -> BTreeMap<String, f64> {
    let all: Vec<(&Series, f64)> = series.collect();
    let has_total = all
        .iter()
        .any(|(series, _)| series.labels.get(PRIORITY).is_some_and(String::is_empty));
    let mut copies: BTreeMap<(String, Labels<'_>), f64> = BTreeMap::new();
    for (series, value) in all {
        let priority = series.labels.get(PRIORITY);
        if has_total && priority.is_some_and(|priority| !priority.is_empty()) {
            continue;
        }
        let labels = series.labels.iter();
        let others = labels
            .filter(|(name, _)| !SHARDS.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let copy = copies.entry((rank(series), others)).or_insert(value);
        *copy = copy.max(value);
    }
    let mut ranks: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for ((rank, _), value) in copies {
        let (sum, count) = ranks.entry(rank).or_default();
        (*sum, *count) = (*sum + value, *count + 1.0);
    }
    let joined = ranks.into_iter();
    joined
        .map(|(rank, (sum, count))| (rank, if mean { sum / count } else { sum }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::engine::exposition;

    fn joined(page: &str, mean: bool) -> Vec<(String, f64)> {
        let page = exposition::parse(page, |_| true).unwrap();
        let series = page.series.iter().map(|s| (s, s.value));
        by_rank(series, mean).into_iter().collect()
    }

    fn one(name: &str, value: f64) -> Vec<(String, f64)> {
        vec![(name.to_owned(), value)]
    }

    #[test]
    fn shards_count_once_and_replicas_each() {
        let tensor = "r{tp_rank=\"0\"} 4\nr{tp_rank=\"1\"} 5\nr{tp_rank=\"2\"} 4\n";
        assert_eq!(joined(tensor, false), one("", 5.0));
        let data = "r{dp_rank=\"0\",tp_rank=\"0\"} 4\nr{dp_rank=\"0\",tp_rank=\"1\"} 4\n\
                    r{dp_rank=\"1\",tp_rank=\"0\"} 7\nr{dp_rank=\"1\",tp_rank=\"1\"} 6\n";
        let want = [("0".to_owned(), 4.0), ("1".to_owned(), 7.0)];
        assert_eq!(joined(data, false), want);
        let models = "r{model=\"a\",pp_rank=\"0\"} 1\nr{model=\"b\",pp_rank=\"0\"} 3\n";
        assert_eq!(joined(models, false), one("", 4.0));
        assert_eq!(joined(models, true), one("", 2.0));
        let priorities = "r{priority=\"\"} 9\nr{priority=\"0\"} 5\nr{priority=\"1\"} 4\n";
        assert_eq!(joined(priorities, false), one("", 9.0));
        assert_eq!(
            joined("r{priority=\"0\"} 5\nr{priority=\"1\"} 4\n", false),
            one("", 9.0)
        );
    }
}
