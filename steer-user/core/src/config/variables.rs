//! Variables of the environment in values: `${NAME}`, and `$${` for a plain `${`.

/// A text with its variables expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// Expanded text.
    pub(super) text: String,
    /// Values in it, each with the name of its variable.
    pub(super) values: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VariableError {
    #[error(
        "variable {0} is not set: set it in the daemon's environment (systemd: EnvironmentFile=), and in this shell to check"
    )]
    Unset(String),
    #[error(
        "`${{` without the name of a variable and `}}`: write ${{NAME}}, or $${{ for a plain ${{"
    )]
    Malformed,
}

/// Expands all variables in a text.
pub(super) fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, VariableError> {
    let mut expanded = Expanded {
        text: String::new(),
        values: Vec::new(),
    };
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            expanded.text += &rest[..at - 1];
            expanded.text += "${";
            rest = &rest[at + 2..];
            continue;
        }
        expanded.text += &rest[..at];
        let (name, behind) = rest[at + 2..]
            .split_once('}')
            .filter(|(name, _)| is_name(name))
            .ok_or(VariableError::Malformed)?;
        let value = variable(name).ok_or_else(|| VariableError::Unset(name.to_owned()))?;
        expanded.text += &value;
        expanded.values.push((value, format!("${{{name}}}")));
        rest = behind;
    }
    expanded.text += rest;
    Ok(expanded)
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, VariableError> {
        let variable = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "B_2" => Some("${A}".to_owned()),
            _ => None,
        };
        expand(text, &variable).map(|expanded| expanded.text)
    }

    #[test]
    fn variables_are_expanded_once() {
        for (text, want) in [
            ("", ""),
            ("$5 {A}", "$5 {A}"),
            ("${A}", "one"),
            ("x${A}y${A}", "xoneyone"),
            ("${B_2}", "${A}"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("a$${b}${A}", "a${b}one"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in ["${", "${}", "${A", "${A B}", "${1}", "x ${a-b}"] {
            assert_eq!(expanded(text), Err(VariableError::Malformed), "{text}");
        }
        let unset = VariableError::Unset("NONE".to_owned());
        assert_eq!(expanded("${NONE}"), Err(unset));
    }
}
