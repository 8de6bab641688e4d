//! What connections tell of backends, taken in.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::info;

use super::{Controller, why::Said};
use crate::{
    config::Mode,
    dataplane::Dataplane,
    domain::{
        health::State,
        passive::{Counts, Reason, Verdict},
        silence::{Around, Traffic},
    },
    journal::Event,
};

/// From one look at what went to members and came back to the next, for each thousand of them that there are: what it
/// costs stays under a hundredth of a core.
const TRAFFIC: Duration = Duration::from_millis(20);

/// When traffic was looked at last, and what it was by then, by backend.
#[derive(Debug, Default)]
pub(super) struct Seen {
    at: Option<Instant>,
    traffic: Vec<Traffic>,
}

impl<D: Dataplane> Controller<D> {
    /// Takes in what connections tell of all backends. Connections themselves are seen of those that are reached by
    /// `nat`; of all others it is seen what goes to them, and whether clients acknowledge answers.
    pub(super) fn watch_all(&mut self, now: Instant) -> Result<()> {
        self.read_traffic(now)?;
        let backends = self.config.backends.len();
        let mut all: Vec<Counts> = vec![Counts::default(); backends];
        for (counts, traffic) in all.iter_mut().zip(&self.traffic.traffic) {
            counts.traffic = *traffic;
        }
        for ((_, backend), id) in &self.numbers.members {
            if !matches!(self.config.backends[*backend].mode, Mode::Nat { .. }) {
                continue;
            }
            let signals = self.dataplane.signals(*id);
            let counts = &mut all[*backend];
            *counts = counts.plus(&Counts {
                refused: signals.refused,
                unanswered: signals.unanswered,
                accepted: signals.accepted,
                traffic: Traffic::default(),
            });
        }
        let mut news = Vec::new();
        let mut answering = HashSet::new();
        for (index, (backend, counts)) in self.config.backends.iter().zip(all).enumerate() {
            let name = &backend.name;
            let before = self.seen.get(name);
            let new = before.and_then(|before| counts.traffic.since(&before.traffic));
            if new.is_some_and(|new| new.answers(is_direct(&backend.mode))) {
                answering.insert(index);
            }
            let is_waiting = self.known.get(name).is_some_and(|k| k.watch.is_waiting());
            if is_waiting || before != Some(&counts) {
                news.push((index, counts));
            }
        }
        for (index, counts) in news {
            let backend = &self.config.backends[index];
            let known = self.known.get(&backend.name);
            let around = Around {
                direct: is_direct(&backend.mode),
                others: answering.iter().any(|other| *other != index),
                well: known.is_some_and(|k| k.health(backend) == State::Up),
            };
            let name = backend.name.clone();
            self.watch_with(&name, counts, around, now)?;
        }
        Ok(())
    }

    /// Reads what went to members and came back, if it is time to.
    fn read_traffic(&mut self, now: Instant) -> Result<()> {
        let members = &self.numbers.members;
        let every = TRAFFIC * u32::try_from(members.len() / 1000 + 1).unwrap_or(u32::MAX);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= every;
        // Looks do not come at exact times.
        let is_early = members.len() >= 1000 && !self.traffic.at.is_none_or(is_due);
        if is_early && self.traffic.traffic.len() == self.config.backends.len() {
            return Ok(());
        }
        let end = members.values().max().map_or(0, |last| last + 1);
        let counted = self.dataplane.traffic(end)?;
        let mut all = vec![Traffic::default(); self.config.backends.len()];
        for ((_, backend), id) in members {
            let Some(member) = counted.get(usize::from(*id)) else {
                continue;
            };
            all[*backend] = all[*backend].plus(&Traffic {
                flows: member.flows,
                requests: member.requests,
                answers: member.answers,
            });
        }
        self.traffic = Seen {
            at: Some(now),
            traffic: all,
        };
        Ok(())
    }

    /// Takes in what was counted of a backend's connections, over all its members, since the maps were
    /// made. The first time nothing follows: it may be of yesterday.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn watch(&mut self, backend: &str, counts: Counts, now: Instant) -> Result<()> {
        self.watch_with(backend, counts, Around::default(), now)
    }

    fn watch_with(
        &mut self,
        backend: &str,
        counts: Counts,
        around: Around,
        now: Instant,
    ) -> Result<()> {
        let Some(known) = self.known.get_mut(backend) else {
            return Ok(());
        };
        let new = match self.seen.insert(backend.to_owned(), counts) {
            Some(before) => counts.since(&before).unwrap_or_default(),
            None => Counts::default(),
        };
        let now = self.recorder.on_clock(now);
        let before = known.watch.write(|at| self.recorder.micros(at));
        let Some(verdict) = known.watch.observe(&new, around, now) else {
            return Ok(());
        };
        info!(
            backend,
            ?verdict,
            counts = ?new,
            ?around,
            silence = ?known.watch.silence().words(now),
            "connections tell of backend"
        );
        let event = Event::Passive {
            backend: backend.to_owned(),
            before,
            counts: new,
            around,
            verdict,
        };
        self.recorder.tell_at(now, event);
        self.conclude(backend, new, verdict, now)
    }

    /// Does what follows from a verdict.
    pub(super) fn conclude(
        &mut self,
        backend: &str,
        counts: Counts,
        verdict: Verdict,
        now: Instant,
    ) -> Result<()> {
        let effect = match verdict {
            Verdict::Out(reason, time) => format!("left out for {} s: {reason}", time.as_secs()),
            Verdict::Again => "tried again".to_owned(),
            Verdict::Answers => "takes new flows again: it answers".to_owned(),
        };
        let mut because = vec![
            format!("{} refused", counts.refused),
            format!("{} unanswered", counts.unanswered),
            format!("{} accepted", counts.accepted),
        ];
        if let Verdict::Out(Reason::Silent, _) = verdict
            && let Some(known) = self.known.get(backend)
        {
            because = known.watch.silence().words(now);
        }
        self.why.note(Said {
            backend: backend.to_owned(),
            service: None,
            what: "connections".to_owned(),
            because,
            effect,
        });
        if verdict == Verdict::Again {
            self.warm_up(backend);
        }
        self.replan_of(backend, now)
    }
}

/// Whether a backend's own packets take another way.
fn is_direct(mode: &Mode) -> bool {
    !matches!(mode, Mode::Nat { .. })
}
