//! The page of metrics, read again: what is on it goes elsewhere in other forms, and no family is
//! written down twice.

/// A family of metrics, as the page describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Its name, without what OpenMetrics adds for samples.
    pub name: String,
    /// counter, gauge or histogram.
    pub kind: String,
    /// Its unit, if it has one.
    pub unit: String,
    /// A sentence.
    pub help: String,
    /// What is measured now.
    pub samples: Vec<Sample>,
}

/// One line of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// What its name has more than the family's: "_total", "_bucket".
    pub suffix: String,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// The number, as it is written.
    pub value: String,
}

/// The families of a page in the text format of OpenMetrics, in its order. Lines that are no part of
/// the format are left out.
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
    // A time and an exemplar may follow, but none of ours has any.
    let value = rest.split_whitespace().next()?;
    Some(Sample {
        suffix: suffix.to_owned(),
        labels,
        value: value.to_owned(),
    })
}

/// A label's value up to its quotation mark, and what is behind that.
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
