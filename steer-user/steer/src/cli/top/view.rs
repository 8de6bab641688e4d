//! The screen.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};
use steer_core::control::{BackendStatus, MemberStatus, ServiceStatus};

use super::rates::{Rate, Seen};

/// Minimum width; a smaller terminal would show the wrong half.
const WIDTH: u16 = 80;
const HEIGHT: u16 = 24;
/// Number of lines for drops.
const DROPS: u16 = 4;
/// Width of a share's bar.
const BAR: usize = 10;

#[derive(Debug, Default)]
pub(super) struct View {
    seen: Option<Seen>,
    /// Reason why the last query failed.
    missed: Option<String>,
    top: u16,
}

impl View {
    pub(super) fn see(&mut self, seen: Seen) {
        self.seen = Some(seen);
        self.missed = None;
    }

    pub(super) fn miss(&mut self, why: String) {
        self.missed = Some(why);
    }

    /// Scrolls down by a number of lines; drawing limits the position.
    pub(super) fn scroll(&mut self, lines: i32) {
        let top = i32::from(self.top).saturating_add(lines).max(0);
        self.top = u16::try_from(top).unwrap_or(u16::MAX);
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        if area.width < WIDTH || area.height < HEIGHT {
            let text = format!(
                "steer top needs {WIDTH}x{HEIGHT},\nand this terminal is {}x{}.\nq quits.",
                area.width, area.height
            );
            frame.render_widget(Paragraph::new(text), area);
            return;
        }
        let parts = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(1),
            Constraint::Length(DROPS + 1),
            Constraint::Length(1),
        ]);
        let [head, body, drops, foot] = parts.areas(area);
        let Some(seen) = &self.seen else {
            return;
        };
        frame.render_widget(Paragraph::new(summary(seen)), head);
        let lines = members(seen);
        let most = (lines.len() as u16).saturating_sub(body.height);
        self.top = self.top.min(most);
        frame.render_widget(Paragraph::new(lines).scroll((self.top, 0)), body);
        frame.render_widget(Paragraph::new(dropped(seen, drops)), drops);
        frame.render_widget(Paragraph::new(self.foot(most)), foot);
    }

    fn foot(&self, most: u16) -> Line<'_> {
        if let Some(missed) = &self.missed {
            let style = Style::new().fg(Color::White).bg(Color::Red);
            return Line::styled(format!("not up to date: {missed}"), style);
        }
        let more = match most {
            0 => "",
            _ if self.top < most => "   more below: arrows",
            _ => "   more above: arrows",
        };
        Line::styled(format!("q quits{more}"), dim())
    }
}

fn summary(seen: &Seen) -> Vec<Line<'_>> {
    let status = &seen.status;
    let up = status
        .backends
        .iter()
        .filter(|b| matches!(b.health.as_str(), "up" | "unprobed"));
    let flows: f64 = seen.members.iter().flatten().map(|rate| rate.flows).sum();
    let bytes: f64 = seen.members.iter().flatten().map(|rate| rate.bytes).sum();
    let drops: f64 = seen.drops.iter().map(|(.., rate)| rate).sum();
    let generation = status.generation.map_or("-".to_owned(), |n| n.to_string());
    let mut notes = String::new();
    if status.confirm_by.is_some() {
        notes += "   pending: `steer config confirm`";
    }
    if status.frozen {
        notes += "   frozen";
    }
    vec![
        Line::from(vec![
            Span::styled(
                format!("steer {}", status.node),
                Style::new().add_modifier(Modifier::BOLD),
            ),
            Span::raw(format!(
                "   {} of {} backends up   configuration {generation}",
                up.count(),
                status.backends.len()
            )),
            Span::styled(notes, Style::new().fg(Color::Yellow)),
        ]),
        Line::raw(format!(
            "{} new flows/s   {}B/s in   {} drops/s",
            short(flows),
            short(bytes),
            short(drops)
        )),
        Line::raw(""),
    ]
}

fn members(seen: &Seen) -> Vec<Line<'_>> {
    let mut lines = vec![Line::styled(
        format!(
            "{:<19}{:<10}{:>8} {:<BAR$}{:>8}{:>9}{:>9}  {}",
            "", "state", "share", "", "flows/s", "B/s", "rtt", "ring"
        ),
        dim(),
    )];
    for (service, rates) in seen.status.services.iter().zip(&seen.members) {
        lines.push(Line::styled(
            title(service),
            Style::new().add_modifier(Modifier::BOLD),
        ));
        for (member, rate) in service.members.iter().zip(rates) {
            let backend = seen
                .status
                .backends
                .iter()
                .find(|b| b.name == member.backend);
            lines.push(row(member, *rate, backend));
        }
    }
    lines
}

fn title(service: &ServiceStatus) -> String {
    let port = match service.port {
        0 => "any port".to_owned(),
        port => port.to_string(),
    };
    let migrating = match service.migrating {
        0 => String::new(),
        count => format!(", {count} slots migrating"),
    };
    cut(
        &format!(
            "{} ({} {} {port}{migrating})",
            service.name, service.protocol, service.address
        ),
        usize::from(WIDTH),
    )
}

fn row<'a>(member: &'a MemberStatus, rate: Rate, backend: Option<&BackendStatus>) -> Line<'a> {
    let (word, color) = word(member, backend);
    let full = (member.share * BAR as f64).round() as usize;
    let rtt = backend.and_then(|b| b.rtt_us);
    let rtt = rtt.map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3));
    let ring = backend.and_then(|b| b.ring);
    let ring = ring.map_or("-".to_owned(), |ring| ring.to_string());
    Line::from(vec![
        Span::raw(format!("  {:<17}", cut(&member.backend, 16))),
        Span::styled(format!("{word:<10}"), Style::new().fg(color)),
        Span::raw(format!("{:>6.1} % ", member.share * 100.0)),
        Span::styled("█".repeat(full.min(BAR)), Style::new().fg(Color::Cyan)),
        Span::styled("·".repeat(BAR.saturating_sub(full)), dim()),
        Span::raw(format!(
            "{:>8}{:>9}{rtt:>9}  {ring:>4}",
            short(rate.flows),
            short(rate.bytes)
        )),
    ])
}

/// Returns the state of a member: that of the kernel, or that of operator or probes if it is more
/// specific.
fn word(member: &MemberStatus, backend: Option<&BackendStatus>) -> (String, Color) {
    let drained = backend.and_then(|b| b.drain.as_ref());
    match (member.state.as_str(), drained) {
        (_, Some(drain)) => (drain.state.clone(), Color::Yellow),
        ("up", _) => ("up".to_owned(), Color::Green),
        ("draining", _) => ("draining".to_owned(), Color::Yellow),
        (state, _) => (state.to_owned(), Color::Red),
    }
}

fn dropped(seen: &Seen, area: Rect) -> Vec<Line<'_>> {
    let mut lines = vec![Line::styled(
        format!(
            "{:<30}{:>12}{:>14}",
            "dropped packets", "in a second", "in all"
        ),
        dim(),
    )];
    if seen.drops.is_empty() {
        lines.push(Line::raw("  none"));
    }
    let room = usize::from(area.height).saturating_sub(1);
    for (reason, count, rate) in seen.drops.iter().take(room) {
        let style = if *rate > 0.0 {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        let text = format!("  {reason:<28}{:>12}{count:>14}", short(*rate));
        lines.push(Line::styled(text, style));
    }
    lines
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// Formats a number in at most six characters.
fn short(number: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    for (unit, name) in units {
        if number >= unit {
            return format!("{:.1}{name}", number / unit);
        }
    }
    match number {
        0.0 => "0".to_owned(),
        number if number < 10.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    }
}

/// Truncates a text to a number of characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::{Value, json};
    use steer_core::control::Status;

    use super::*;
    use crate::cli::top::rates::Rates;

    fn member(backend: &str, state: &str, share: f64, flows: u64) -> Value {
        json!({
            "backend": backend, "pool": "all", "state": state, "share": share, "flows": flows,
            "packets": 10 * flows, "bytes": 15_000 * flows, "replies": 0
        })
    }

    fn backend(name: &str, health: &str, rtt_us: Option<u64>) -> Value {
        json!({
            "name": name, "address": "10.0.0.1", "mode": "nat", "health": health,
            "drained": false, "draining": false, "rtt_us": rtt_us, "ring": rtt_us.map(|_| 0),
            "measured_ms_ago": 90, "failure": null, "resolved": true
        })
    }

    fn status(flows: u64, resets: u64, more: usize) -> Status {
        let mut drained = backend("gpu-3", "up", Some(8100));
        drained["drain"] = json!({ "state": "draining", "slots": 3, "flows": 4 });
        let mut members = vec![
            member("gpu-1", "up", 0.667, 4 * flows),
            member("gpu-2", "up", 0.333, flows),
            member("gpu-3", "draining", 0.0, 7),
            member("a-backend-with-a-long-name", "down", 0.0, 0),
        ];
        members.extend((0..more).map(|n| member(&format!("more-{n}"), "up", 0.0, 0)));
        let status = json!({
            "node": "edge-1", "interfaces": ["eth0"], "generation": 12,
            "services": [{
                "name": "chat", "address": "192.0.2.80", "port": 443, "protocol": "tcp",
                "pools": ["all"], "slots": 251, "migrating": 4, "members": members
            }],
            "backends": [
                backend("gpu-1", "up", Some(420)), backend("gpu-2", "up", Some(1980)),
                drained, backend("a-backend-with-a-long-name", "down", None)
            ],
            "drops": { "reset": resets, "no-backend": 3 }
        });
        serde_json::from_value(status).unwrap()
    }

    fn screen(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        text.map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    fn view(more: usize) -> View {
        let mut view = View::default();
        let mut rates = Rates::default();
        let now = Instant::now();
        view.see(rates.next(status(100, 5, more), now));
        view.see(rates.next(status(400, 25, more), now + Duration::from_secs(2)));
        view
    }

    #[test]
    fn a_terminal_of_80_by_24_has_all_of_it() {
        let shown = screen(&mut view(0), 80, 24);
        let wanted = "\
steer edge-1   3 of 4 backends up   configuration 12
750 new flows/s   11.2MB/s in   10 drops/s

                   state        share            flows/s      B/s      rtt  ring
chat (tcp 192.0.2.80 443, 4 slots migrating)
  gpu-1            up          66.7 % ███████···     600     9.0M   0.4 ms     0
  gpu-2            up          33.3 % ███·······     150     2.2M   2.0 ms     0
  gpu-3            draining     0.0 % ··········       0        0   8.1 ms     0
  a-backend-with-… down         0.0 % ··········       0        0        -     -









dropped packets                in a second        in all
  reset                                 10            25
  no-backend                             0             3


q quits
";
        assert_eq!(shown, wanted, "\n{shown}");
    }

    #[test]
    fn what_is_below_is_scrolled_to_and_not_past() {
        let mut view = view(30);
        let shown = screen(&mut view, 80, 24);
        assert!(
            shown.contains("gpu-1") && shown.contains("more below"),
            "{shown}"
        );
        assert!(!shown.contains("more-29"), "{shown}");
        view.scroll(1000);
        let shown = screen(&mut view, 80, 24);
        assert!(
            shown.contains("more-29") && shown.contains("more above"),
            "{shown}"
        );
        view.scroll(-1);
        assert!(!screen(&mut view, 80, 24).contains("more-29"));
        view.scroll(i32::MIN);
        assert!(screen(&mut view, 80, 24).contains("gpu-1"));
    }

    #[test]
    fn a_smaller_terminal_is_told_so() {
        for (width, height) in [(79, 24), (80, 23), (30, 5)] {
            let shown = screen(&mut view(0), width, height);
            assert!(shown.contains("needs 80x24"), "{shown}");
            assert!(shown.contains(&format!("is {width}x{height}.")), "{shown}");
            assert!(!shown.contains("gpu-1"), "{shown}");
        }
    }

    #[test]
    fn an_answer_that_does_not_come_leaves_the_last_one_and_says_so() {
        let mut view = view(0);
        view.miss("/run/steer.sock: no daemon answers here".to_owned());
        let shown = screen(&mut view, 80, 24);
        assert!(
            shown.contains("gpu-1") && shown.contains("not up to date: /run"),
            "{shown}"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (number, wanted) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.3, "12"),
            (999.0, "999"),
            (1500.0, "1.5k"),
            (2.5e10, "25.0G"),
        ] {
            assert_eq!(short(number), wanted);
        }
    }
}
