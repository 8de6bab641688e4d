//! Colours of words. `anstream` removes them if the output is no terminal, or if `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// Colours a state, padded to the width of its column.
pub(super) fn state(word: &str, width: usize) -> String {
    let color = match word {
        "up" => AnsiColor::Green,
        "down" | "absent" => AnsiColor::Red,
        "draining" | "degraded" | "unknown" => AnsiColor::Yellow,
        _ => return format!("{word:<width$}"),
    };
    let style = Style::new().fg_color(Some(color.into()));
    format!(
        "{style}{word}{style:#}{:1$}",
        "",
        width.saturating_sub(word.len())
    )
}
