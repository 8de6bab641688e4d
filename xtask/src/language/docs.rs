//! First lines of doc comments: a third-person verb phrase or a noun phrase.

use super::Finding;

const ADVICE: &str = "begin with a third-person verb (\"Returns …\") or a noun (\"Address of …\")";
const WHETHER: &str =
    "write \"Returns whether …\" of a function, or a noun; \"Whether …\" is for fields";

/// Words that begin neither a verb phrase nor a noun phrase.
const REFUSED: [&str; 30] = [
    "and", "as", "because", "but", "by", "how", "if", "it", "it's", "nobody", "of", "so long",
    "so many", "so much", "that", "then", "there", "they", "until", "what", "when", "where",
    "which", "while", "who", "whoever", "whom", "whose", "why", "yet",
];

/// Words that begin an item which is no field and no variant.
const ITEMS: [&str; 13] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules!",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "unsafe",
];

/// Returns the doc comments whose first line begins with a refused word.
pub(super) fn check(source: &str) -> Vec<Finding> {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((marker, text)) = doc(line) else {
            continue;
        };
        let is_first = index == 0 || doc(lines[index - 1]).is_none_or(|(m, _)| m != marker);
        if !is_first {
            continue;
        }
        let advice = if starts_with(text, "whether") {
            (marker == "//!" || is_item(&lines[index..])).then_some(WHETHER)
        } else {
            REFUSED
                .iter()
                .any(|word| starts_with(text, word))
                .then_some(ADVICE)
        };
        findings.extend(advice.map(|advice| Finding {
            line: index + 1,
            text: (*line).to_owned(),
            advice,
        }));
    }
    findings
}

/// Splits a line of a doc comment into its marker and its text.
fn doc(line: &str) -> Option<(&'static str, &str)> {
    ["///", "//!"].into_iter().find_map(|marker| {
        let text = line.strip_prefix(marker)?;
        (!text.starts_with('/')).then(|| (marker, text.trim_start()))
    })
}

/// Returns whether a text begins with these words, in either case, and not just with their letters.
fn starts_with(text: &str, words: &str) -> bool {
    let Some(begin) = text.get(..words.len()) else {
        return false;
    };
    let next = text[words.len()..].chars().next();
    begin.eq_ignore_ascii_case(words)
        && !next.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'')
}

/// Returns whether the code below a doc comment is an item, as opposed to a field or a variant.
fn is_item(lines: &[&str]) -> bool {
    let mut depth = 0_usize;
    for line in lines {
        if doc(line).is_some() || line.is_empty() {
            continue;
        }
        if depth > 0 || line.starts_with("#[") {
            depth += line.matches(['[', '(']).count();
            depth = depth.saturating_sub(line.matches([']', ')']).count());
            continue;
        }
        let code = line.strip_prefix("pub").map_or(*line, |rest| {
            let rest = rest.trim_start();
            match rest.split_once(") ") {
                Some((_, code)) if rest.starts_with('(') => code,
                _ => rest,
            }
        });
        return code
            .split_whitespace()
            .next()
            .is_some_and(|word| ITEMS.contains(&word));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        check(source).iter().map(|found| found.line).collect()
    }

    #[test]
    fn verbs_and_nouns_pass() {
        let source = "//! Tables of a service.\n\n/// Returns the member of a new flow.\nfn f() {}\n\
                      /// Items, whose price is known.\nfn g() {}\n/// Itself.\nfn h() {}\n";
        assert!(lines(source).is_empty());
    }

    #[test]
    fn clauses_are_found_by_line() {
        let source = "//! What is sent.\n\n/// It waits.\nfn f() {}\n\n    /// So many at most.\n    \
                      const A: u8 = 1;\n/// how long\nfn g() {}\n";
        assert_eq!(lines(source), [1, 3, 6, 8]);
    }

    #[test]
    fn only_the_first_line_counts() {
        assert!(lines("/// Ends a flow\n/// when it is idle.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn whether_is_for_fields() {
        let field = "struct A {\n    /// Whether it is full.\n    #[serde(default)]\n    pub full: bool,\n}\n";
        assert!(lines(field).is_empty());
        for item in ["fn full()", "pub fn full()", "pub(super) const fn full()"] {
            let source = format!("/// Whether it is full.\n#[cfg(\n    test\n)]\n{item} {{}}\n");
            assert_eq!(lines(&source), [1], "{item}");
        }
        assert_eq!(lines("//! Whether it is full.\n"), [1]);
    }

    #[test]
    fn other_comments_are_not_docs() {
        assert!(lines("// What is sent.\n//// What\nfn f() {}\n").is_empty());
    }
}
