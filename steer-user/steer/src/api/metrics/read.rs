//! Parser of the page of metrics, for export in other formats, so that no family is defined twice.

/// A family of metrics, as described on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Name, without the suffixes that OpenMetrics adds for samples.
    pub name: String,
    /// Type: counter, gauge or histogram.
    pub kind: String,
    /// Unit, if there is one.
    pub unit: String,
    /// Help text.
    pub help: String,
    /// Current samples.
    pub samples: Vec<Sample>,
}

/// One line of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Suffix of the sample's name: "_total", "_bucket".
    pub suffix: String,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// Number as written.
    pub value: String,
}

/// Parses the families of a page in the text format of OpenMetrics, in order. Invalid lines are
/// skipped.
pub(crate) fn read(page: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        match line.strip_prefix("# ") {
            Some(comment) => describe(comment, &mut families),
            None => {
                let Some(family) = families.last_mut() else {
                    continue;
                };
                family.samples.extend(sample(line, &family.name));
            }
        }
    }
    families
}

fn describe(comment: &str, families: &mut Vec<Family>) {
    let mut words = comment.splitn(3, ' ');
    let (Some(what), Some(name)) = (words.next(), words.next()) else {
        return;
    };
    if families.last().is_none_or(|last| last.name != name) {
        families.push(Family {
            name: name.to_owned(),
            ..Family::default()
        });
    }
    let (Some(family), Some(text)) = (families.last_mut(), words.next()) else {
        return;
    };
    match what {
        "HELP" => text.clone_into(&mut family.help),
        "TYPE" => text.clone_into(&mut family.kind),
        "UNIT" => text.clone_into(&mut family.unit),
        _ => {}
    }
}

fn sample(line: &str, family: &str) -> Option<Sample> {
    let rest = line.strip_prefix(family)?;
    let (suffix, mut rest) = rest.split_at(rest.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (name, quoted) = rest.split_once("=\"")?;
            let (value, behind) = unquoted(quoted)?;
            labels.push((name.to_owned(), value));
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    // A timestamp and an exemplar may follow, but our page has none.
    let value = rest.split_whitespace().next()?;
    Some(Sample {
        suffix: suffix.to_owned(),
        labels,
        value: value.to_owned(),
    })
}

/// Parses a label's value up to its quotation mark; also returns the rest after it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_is_written() {
        let page = "# HELP a_seconds Some time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
            a_seconds_sum{b=\"x\"} 0.5\na_seconds_bucket{le=\"+Inf\",b=\"x\"} 3\n\
            # HELP c None.\n# TYPE c counter\n# HELP d All.\n# TYPE d gauge\nd 1.0\nstray 3\nd{\n# EOF\n";
        let families = read(page);
        let names: Vec<&str> = families.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["a_seconds", "c", "d"]);
        let a = &families[0];
        assert_eq!(
            (&*a.kind, &*a.unit, &*a.help),
            ("histogram", "seconds", "Some time.")
        );
        let bucket = &a.samples[1];
        assert_eq!((&*bucket.suffix, &*bucket.value), ("_bucket", "3"));
        assert_eq!(bucket.labels[0], ("le".to_owned(), "+Inf".to_owned()));
        assert!(families[1].samples.is_empty());
        assert_eq!(families[2].samples.len(), 1);
    }

    #[test]
    fn labels_may_have_anything_in_them() {
        let found = sample("a{b=\"x\\\"},\\\\ \\n=\\\"\",c=\"\"} 7", "a").unwrap();
        let labels = [("b", "x\"},\\ \n=\""), ("c", "")];
        assert_eq!(
            found.labels,
            labels.map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        assert_eq!(found.value, "7");
        assert_eq!(sample("a{b=\"x", "a"), None);
    }
}
