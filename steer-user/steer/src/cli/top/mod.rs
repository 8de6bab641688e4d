//! `steer top`: live view of the node.

mod rates;
mod view;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use humantime_serde::re::humantime::parse_duration;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::{rates::Rates, view::View};
use super::{
    ask::{Socket, failure},
    error::{Exit, Failure},
};

/// Show shares, health, round trips, new flows and drops, live. q quits, arrows scroll.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Interval between updates.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    every: Duration,
    #[command(flatten)]
    socket: Socket,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            let text = "standard output is not a terminal; use `steer status --json` or `steer watch` in \
                 programs";
            return Err(Failure::new(Exit::Usage, anyhow::anyhow!(text)));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = self.socket.client()?;
        let mut view = View::default();
        // The first query comes before the screen is set up, so that its errors are printed
        // normally.
        let first = runtime.block_on(client.status()).map_err(failure)?;
        let mut rates = Rates::default();
        view.see(rates.next(first, Instant::now()));
        let mut terminal = ratatui::try_init().context("the terminal cannot be set up")?;
        let done = loop {
            if let Err(error) = terminal.draw(|frame| view.draw(frame)) {
                break Err(error.into());
            }
            match keys(self.every, &mut view) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error.into()),
            }
            match runtime.block_on(client.status()) {
                Ok(status) => view.see(rates.next(status, Instant::now())),
                Err(error) => view.miss(error.to_string()),
            }
        };
        ratatui::restore();
        done
    }
}

/// Processes keys until the next update; returns whether one of them quits.
fn keys(wait: Duration, view: &mut View) -> std::io::Result<bool> {
    let end = Instant::now() + wait;
    while event::poll(end.saturating_duration_since(Instant::now()))? {
        let Event::Key(key) = event::read()? else {
            // A resized screen is drawn at once.
            return Ok(false);
        };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Ok(true);
            }
            KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => view.scroll(10),
            KeyCode::PageUp => view.scroll(-10),
            KeyCode::Home => view.scroll(i32::MIN),
            _ => continue,
        }
        return Ok(false);
    }
    Ok(false)
}
