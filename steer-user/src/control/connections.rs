//! What connections tell of backends, taken in.

use std::time::Instant;

use anyhow::Result;
use tracing::info;

use super::{Controller, why::Said};
use crate::{
    config::Mode,
    dataplane::Dataplane,
    domain::passive::{Counts, Verdict},
    journal::Event,
};

impl<D: Dataplane> Controller<D> {
    /// Takes in what connections tell of all backends that are reached by `nat`.
    pub(super) fn watch_all(&mut self, now: Instant) -> Result<()> {
        let mut counts: Vec<Option<Counts>> = vec![None; self.config.backends.len()];
        for ((_, backend), id) in &self.numbers.members {
            if !matches!(self.config.backends[*backend].mode, Mode::Nat { .. }) {
                continue;
            }
            let signals = self.dataplane.signals(*id);
            let of = Counts {
                refused: signals.refused,
                unanswered: signals.unanswered,
                accepted: signals.accepted,
            };
            let sum = counts[*backend].get_or_insert_default();
            *sum = sum.plus(&of);
        }
        let mut news = Vec::new();
        for (backend, counts) in self.config.backends.iter().zip(counts) {
            let Some(counts) = counts else { continue };
            let name = &backend.name;
            let is_out = self
                .known
                .get(name)
                .is_some_and(|k| k.watch.out().is_some());
            if is_out || self.seen.get(name) != Some(&counts) {
                news.push((name.clone(), counts));
            }
        }
        for (name, counts) in news {
            self.watch(&name, counts, now)?;
        }
        Ok(())
    }

    /// Takes in what was counted of a backend's connections, over all its members, since the maps were
    /// made. The first time nothing follows: it may be of yesterday.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn watch(&mut self, backend: &str, counts: Counts, now: Instant) -> Result<()> {
        let Some(known) = self.known.get_mut(backend) else {
            return Ok(());
        };
        let new = match self.seen.insert(backend.to_owned(), counts) {
            Some(before) => counts.since(&before).unwrap_or_default(),
            None => Counts::default(),
        };
        let now = self.recorder.on_clock(now);
        let before = known.watch.write(|at| self.recorder.micros(at));
        let Some(verdict) = known.watch.observe(&new, now) else {
            return Ok(());
        };
        info!(backend, ?verdict, counts = ?new, "connections tell of backend");
        let event = Event::Passive {
            backend: backend.to_owned(),
            before,
            counts: new,
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
        };
        self.why.note(Said {
            backend: backend.to_owned(),
            service: None,
            what: "connections".to_owned(),
            because: vec![
                format!("{} refused", counts.refused),
                format!("{} unanswered", counts.unanswered),
                format!("{} accepted", counts.accepted),
            ],
            effect,
        });
        if verdict == Verdict::Again {
            self.warm_up(backend);
        }
        self.replan_of(backend, now)
    }
}
