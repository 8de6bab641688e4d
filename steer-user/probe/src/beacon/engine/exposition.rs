//! Parser of the Prometheus text format (version 0.0.4) for beacons: bounded, strict, and limited
//! to series that a profile asks for.

use std::collections::BTreeMap;

/// Maximum size of a page; vLLM's has about 100 KiB.
pub(super) const MAX_PAGE: usize = 4 << 20;
/// Upper bound of the series kept. A histogram has about thirty for each model.
const MAX_SERIES: usize = 20_000;
/// Maximum length of a line.
const MAX_LINE: usize = 16 << 10;
const MAX_LABELS: usize = 64;

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// Name.
    pub(super) name: String,
    /// Labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Value, possibly not finite.
    pub(super) value: f64,
    /// Smallest change that its digits can show if that is more than 1, else 0.
    pub(super) step: f64,
}

/// The parts of a page of metrics that a profile asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Exposition {
    /// Requested series.
    pub(super) series: Vec<Series>,
    /// Requested names with an invalid line, and the error.
    pub(super) broken: Vec<(String, &'static str)>,
}

/// Error for a text that is no page of metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpositionError {
    /// Longer than the maximum.
    #[error("the page has more than {MAX_PAGE} bytes")]
    TooLong,
    /// The page ends within a line.
    #[error("the page ends within a line: it is incomplete")]
    Truncated,
    /// Something else than a page of metrics.
    #[error("this is {0}, and no page of metrics; is it the engine's address?")]
    Other(&'static str),
    /// More requested series than any engine has.
    #[error("the page has more than {MAX_SERIES} series of the profile")]
    TooMany,
    /// A line has an invalid format.
    #[error("line {line} of the page: {what}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// Description of the error.
        what: &'static str,
    },
}

/// Parses a page, and keeps the series whose name is `wanted`. An invalid line spoils only the
/// signal it belongs to. With more invalid lines than valid ones, the text is no page.
pub(super) fn parse(
    page: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Exposition, ExpositionError> {
    if page.len() > MAX_PAGE {
        return Err(ExpositionError::TooLong);
    }
    let page = page.trim_start_matches('\u{feff}');
    let first = page.trim_start().lines().next().unwrap_or_default();
    if first.starts_with('<') {
        return Err(ExpositionError::Other("HTML"));
    }
    // Series with a quoted name begin with a brace as well.
    if first.starts_with('{') && (first.contains("\":") || first.trim() == "{") {
        return Err(ExpositionError::Other("JSON"));
    }
    if !page.is_empty() && !page.ends_with('\n') {
        return Err(ExpositionError::Truncated);
    }
    let mut read = Exposition::default();
    let (mut good, mut bad_lines, mut first_bad) = (0_usize, 0_usize, None);
    for (index, line) in page.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = if line.len() > MAX_LINE {
            Err("it is too long")
        } else {
            series(line, &wanted)
        };
        if read.series.len() + read.broken.len() == MAX_SERIES {
            return Err(ExpositionError::TooMany);
        }
        match parsed {
            Ok(series) => {
                good += 1;
                read.series.extend(series);
            }
            Err(what) => {
                bad_lines += 1;
                let line_number = index + 1;
                first_bad.get_or_insert(ExpositionError::Line {
                    line: line_number,
                    what,
                });
                let name = line.split(|c| !is_name(c)).next().unwrap_or_default();
                if wanted(name) {
                    read.broken.push((name.to_owned(), what));
                }
            }
        }
    }
    match first_bad {
        Some(error) if bad_lines > good => Err(error),
        _ => Ok(read),
    }
}

/// Parses `name{label="value",...} value [timestamp]`.
fn series(line: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<Series>, &'static str> {
    let end = line.find(|c: char| !is_name(c)).ok_or("it has no value")?;
    let (name, rest) = line.split_at(end);
    if !is_name_start(name) {
        return Err("it does not start with a name");
    }
    let (labels, rest) = match rest.trim_start().strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // Exemplars belong to OpenMetrics, but some clients send them here as well.
    let rest = rest.split(" # ").next().unwrap_or(rest);
    let mut words = rest.split_whitespace();
    let value = words.next().ok_or("it has no value")?;
    let step = step(value);
    let value = number(value).ok_or("its value is not a number")?;
    let timestamp = words.next();
    if timestamp.is_some_and(|t| t.parse::<f64>().is_err()) || words.next().is_some() {
        return Err("there is text after its value");
    }
    Ok(wanted(name).then(|| Series {
        name: name.to_owned(),
        labels,
        value,
        step,
    }))
}

/// Returns the smallest change that is visible in a number printed with six digits, as C++ streams
/// do: 1.23457e+06 stands for anything within 10. Longer and smaller numbers show every change of
/// 1.
fn step(text: &str) -> f64 {
    const DIGITS: usize = 6;
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return 0.0;
    };
    let digits = mantissa.chars().filter(char::is_ascii_digit).count();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if digits > DIGITS || !(6..=300).contains(&exponent) {
        return 0.0;
    }
    10_f64.powi(exponent - 5)
}

/// Parses labels after an opening brace; also returns the rest after the closing one.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), &'static str> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((labels, behind));
        }
        let (name, behind) = rest.split_once('=').ok_or("a label has no value")?;
        let name = name.trim();
        if !is_name_start(name) || !name.chars().all(is_name) {
            return Err("a label has no name");
        }
        let behind = behind.trim_start().strip_prefix('"');
        let (value, behind) = quoted(behind.ok_or("a label's value is not quoted")?)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err("a label is repeated");
        }
        if labels.len() > MAX_LABELS {
            return Err("it has too many labels");
        }
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(',') {
            Some(behind) => behind,
            None if behind.starts_with('}') => behind,
            None => return Err("its labels do not end"),
        };
    }
}

/// Parses a text up to its closing quote; also returns the rest after it.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                _ => return Err("a label's value has an unknown escape"),
            },
            c => value.push(c),
        }
    }
    Err("a label's value does not end")
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Other numbers that Rust accepts ("infinity", "nan") are not in the format.
        _ if text.contains(|c: char| c.is_ascii_alphabetic() && !"eE".contains(c)) => None,
        _ => text.parse().ok(),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn is_name_start(name: &str) -> bool {
    name.starts_with(|c: char| is_name(c) && !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Result<Series, ExpositionError> {
        parse(&format!("{line}\n"), |_| true).map(|mut page| page.series.remove(0))
    }

    #[test]
    fn reads_what_the_format_allows() {
        let got = one(r#" vllm:x { model = "a \"b\"\\\n,}" , le="+Inf",} 1.5e3 1700000000000 "#);
        let got = got.unwrap();
        assert_eq!((got.name.as_str(), got.value), ("vllm:x", 1500.0));
        assert_eq!(got.labels["model"], "a \"b\"\\\n,}");
        assert_eq!(got.labels["le"], "+Inf");
        assert!(one("a NaN").unwrap().value.is_nan());
        assert_eq!(one("a{} -Inf").unwrap().value, f64::NEG_INFINITY);
        assert_eq!(one("a 1 # {trace=\"x\"} 2").unwrap().value, 1.0);
        let page = "# HELP a what {is\n# TYPE a gauge\n\na 1\r\nb 2\n";
        let kept = parse(page, |name| name == "b").unwrap();
        assert_eq!(kept.series.len(), 1);
        assert_eq!(parse("", |_| true), Ok(Exposition::default()));
    }

    #[test]
    fn names_what_is_no_page_at_all() {
        let html = parse("\n<!DOCTYPE html>\n<h1>It works</h1>\n", |_| true);
        assert_eq!(html, Err(ExpositionError::Other("HTML")));
        let json = parse("{\"error\": \"not found\"}\n", |_| true);
        assert_eq!(json, Err(ExpositionError::Other("JSON")));
        let marked = parse("\u{feff}a 1\n", |_| true).unwrap();
        assert_eq!(marked.series.len(), 1);
    }

    #[test]
    fn refuses_what_is_no_page() {
        for line in [
            "a",
            "1a 1",
            "{a=\"b\"} 1",
            "a{b} 1",
            "a{b=c} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "a{b=\"c\",b=\"c\"} 1",
            "a{b=\"\\t\"} 1",
            "a{b=\"c\"}",
            "a one",
            "a nan",
            "a 1 x",
            "a 1 2 3",
        ] {
            assert!(
                matches!(one(line), Err(ExpositionError::Line { line: 1, .. })),
                "{line}"
            );
        }
        assert_eq!(parse("a 1\nb 1", |_| true), Err(ExpositionError::Truncated));
        let long = format!("a{{b=\"{}\"}} 1", "x".repeat(MAX_LINE));
        assert!(one(&long).is_err());
        let many = "a 1\n".repeat(MAX_SERIES + 1);
        assert_eq!(parse(&many, |_| true), Err(ExpositionError::TooMany));
        assert_eq!(parse(&many, |_| false), Ok(Exposition::default()));
        let huge = "#\n".repeat(MAX_PAGE / 2 + 1);
        assert_eq!(parse(&huge, |_| true), Err(ExpositionError::TooLong));
    }

    #[test]
    fn a_bad_line_spoils_no_other() {
        let text = "a 1\nbusy -nan\nb{x=\"1} 2\nc 3\nd 4\n";
        let page = parse(text, |name| name != "busy").unwrap();
        let names: Vec<&str> = page.series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(
            page.broken,
            [("b".to_owned(), "a label's value does not end")]
        );
        // A text that is mostly something else is no page, even if one of its lines looks like one.
        let text = "load of it\nload 1\n<p>busy</p>\n";
        assert!(matches!(
            parse(text, |_| true),
            Err(ExpositionError::Line { line: 1, .. })
        ));
    }

    #[test]
    fn six_digits_show_only_large_steps() {
        for (text, want) in [
            ("1.23457e+06", 10.0),
            ("1e+06", 10.0),
            ("9.99999e+08", 1000.0),
            ("1.234567e+06", 0.0),
            ("8.128902e+06", 0.0),
            ("999999", 0.0),
            ("12345678", 0.0),
            ("1.5e+03", 0.0),
            ("1e-07", 0.0),
            ("1e+999", 0.0),
        ] {
            assert_eq!(step(text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(?s)[ -~\\n\\t\"{}=,#é]{0,200}") {
            let _ = parse(&text, |_| true);
            let _ = parse(&(text + "\n"), |_| true);
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z_:][a-z0-9_:]{0,20}", label in "[ -~]{0,20}", value in any::<f64>()) {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"");
            let text = match value {
                v if v.is_nan() => "NaN".to_owned(),
                f64::INFINITY => "+Inf".to_owned(),
                f64::NEG_INFINITY => "-Inf".to_owned(),
                v => format!("{v:e}"),
            };
            let got = one(&format!("{name}{{l=\"{escaped}\"}} {text}")).unwrap();
            prop_assert_eq!(got.name, name);
            prop_assert_eq!(&got.labels["l"], &label);
            prop_assert!(got.value == value || (got.value.is_nan() && value.is_nan()));
        }
    }
}
