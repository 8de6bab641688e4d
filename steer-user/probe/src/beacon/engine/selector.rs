//! Selectors of series on a page of metrics.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer};

use super::exposition::{self, Series};

/// Selector of series: `name`, `name{label="value"}`, optionally with a factor for another unit:
/// `name * 0.001`.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// Name.
    pub name: String,
    /// Required labels.
    pub labels: BTreeMap<String, String>,
    /// Factor for the values.
    pub factor: f64,
}

impl Selector {
    /// Returns whether it names a series.
    pub(super) fn selects(&self, series: &Series) -> bool {
        series.name == self.name && self.has_labels(series)
    }

    /// Returns whether a series has its labels.
    pub(super) fn has_labels(&self, series: &Series) -> bool {
        let mut labels = self.labels.iter();
        labels.all(|(name, value)| series.labels.get(name) == Some(value))
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a selector: write a name, `name{{label=\"value\"}}`, or `name * \
                 0.001`"
            )
        };
        let (series, factor) = match text.rsplit_once(" * ") {
            Some((series, factor)) => (series, factor.parse().map_err(|_| bad())?),
            None => (text, 1.0),
        };
        // A selector has the format of a line without its value.
        let page = format!("{} 0\n", series.trim());
        let parsed = exposition::parse(&page, |_| true).map_err(|_| bad())?;
        if !parsed.broken.is_empty() {
            return Err(bad());
        }
        let [series] = parsed.series.try_into().map_err(|_| bad())?;
        if !f64::is_finite(factor) || factor <= 0.0 {
            return Err(bad());
        }
        Ok(Self {
            name: series.name,
            labels: series.labels,
            factor,
        })
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v:?}"))
            .collect();
        if !labels.is_empty() {
            write!(f, "{{{}}}", labels.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read() {
        let got: Selector = "a:b_ms{x=\"1\"} * 0.001".parse().unwrap();
        assert_eq!((got.name.as_str(), got.factor), ("a:b_ms", 0.001));
        assert_eq!(got.to_string(), "a:b_ms{x=\"1\"}");
        for bad in ["", "a b", "a{x}", "a * b", "a * -1", "1", "a\nb"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }
}
