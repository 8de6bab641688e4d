//! Colours of words. `anstream` takes them off where they do not go to a terminal, and where
//! `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// A word for how something is, as wide as its column.
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
