//! What connections tell of backends, taken in.
//!
//! It is looked at every few milliseconds, over all backends, and almost nothing of it changes: so what is looked at
//! lies in rows, by number, and only what is another than before is gone into.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::abi::Signals;
use tracing::info;

use super::{Controller, desired::Numbers, why::Said};
use crate::{
    config::{Config, Mode},
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

/// What was counted of connections.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When traffic was looked at last.
    at: Option<Instant>,
    /// The backends of members, by the numbers of these.
    owners: Vec<Option<usize>>,
    /// By member, as they were counted last.
    signals: Vec<Signals>,
    backends: Vec<Counted>,
    /// Backends whose counts are to be taken in.
    changed: BTreeSet<usize>,
    /// Backends of which time alone may change something.
    waiting: BTreeSet<usize>,
}

/// What was counted of a backend's connections, over all its members.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    now: Counts,
    /// As it was taken in last.
    taken: Option<Counts>,
}

impl Seen {
    /// What was taken in of backends goes on under another configuration, by their names.
    pub(super) fn go_on(&mut self, before: &Config, config: &Config, numbers: &Numbers) {
        let named = before.backends.iter().map(|b| b.name.as_str());
        let taken: HashMap<&str, &Counted> = named.zip(&self.backends).collect();
        let members = &numbers.members;
        let end = members.values().max().map_or(0, |last| last + 1);
        let mut owners = vec![None; usize::from(end)];
        for ((_, backend), id) in members {
            owners[usize::from(*id)] = Some(*backend);
        }
        let counted = config.backends.iter().map(|b| Counted {
            now: Counts::default(),
            taken: taken.get(b.name.as_str()).and_then(|counted| counted.taken),
        });
        let all = 0..config.backends.len();
        *self = Self {
            at: None,
            signals: vec![Signals::default(); owners.len()],
            owners,
            backends: counted.collect(),
            changed: all.clone().collect(),
            waiting: all.collect(),
        };
    }

    fn set_traffic(&mut self, backend: usize, traffic: Traffic) {
        let counted = &mut self.backends[backend];
        counted.now.traffic = traffic;
        if counted.taken.is_none_or(|taken| taken.traffic != traffic) {
            self.changed.insert(backend);
        }
    }

    /// Adds what was counted of a member since it was `before`.
    fn add_signals(&mut self, backend: usize, before: &Signals, now: &Signals) {
        let counts = &mut self.backends[backend].now;
        for (sum, before, now) in [
            (&mut counts.refused, before.refused, now.refused),
            (&mut counts.unanswered, before.unanswered, now.unanswered),
            (&mut counts.accepted, before.accepted, now.accepted),
        ] {
            *sum = sum.wrapping_add(now.wrapping_sub(before));
        }
        self.changed.insert(backend);
    }
}

impl<D: Dataplane> Controller<D> {
    /// Takes in what connections tell of all backends. Connections themselves are seen of those that are reached by
    /// `nat`; of all others it is seen what goes to them, and whether clients acknowledge answers.
    pub(super) fn watch_all(&mut self, now: Instant) -> Result<()> {
        self.read_traffic(now)?;
        self.read_signals();
        let changed = mem::take(&mut self.seen.changed);
        let mut answering = BTreeSet::new();
        for index in &changed {
            let Counted { now, taken } = self.seen.backends[*index];
            let new = taken.and_then(|taken| now.traffic.since(&taken.traffic));
            if new.is_some_and(|new| new.answers(is_direct(&self.config.backends[*index].mode))) {
                answering.insert(*index);
            }
        }
        let waiting = mem::take(&mut self.seen.waiting);
        let mut done = Ok(());
        for index in changed.union(&waiting).copied() {
            let backend = &self.config.backends[index];
            let known = self.known.get(&backend.name);
            let around = Around {
                direct: is_direct(&backend.mode),
                others: answering.len() > usize::from(answering.contains(&index)),
                well: known.is_some_and(|k| k.health(backend) == State::Up),
            };
            let name = backend.name.clone();
            let counts = self.seen.backends[index].now;
            // What cannot be written of one keeps nothing from the others.
            done = done.and(self.watch_with(&name, counts, around, now));
            if self.known.get(&name).is_some_and(|k| k.watch.is_waiting()) {
                self.seen.waiting.insert(index);
            }
        }
        done
    }

    /// Reads what went to members and came back, if it is time to.
    fn read_traffic(&mut self, now: Instant) -> Result<()> {
        let owners = &self.seen.owners;
        let every = TRAFFIC * u32::try_from(owners.len() / 1000 + 1).unwrap_or(u32::MAX);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= every;
        // Looks do not come at exact times.
        if owners.len() >= 1000 && !self.seen.at.is_none_or(is_due) {
            return Ok(());
        }
        // The number of members is one of 16 bits.
        let counted = self.dataplane.traffic(owners.len() as u16)?;
        let mut all = vec![Traffic::default(); self.config.backends.len()];
        for (backend, member) in owners.iter().zip(counted) {
            let Some(backend) = *backend else {
                continue;
            };
            all[backend] = all[backend].plus(&Traffic {
                flows: member.flows,
                requests: member.requests,
                answers: member.answers,
            });
        }
        self.seen.at = Some(now);
        for (backend, traffic) in all.into_iter().enumerate() {
            self.seen.set_traffic(backend, traffic);
        }
        Ok(())
    }

    /// Reads the signs of trouble with members that are reached by `nat`.
    fn read_signals(&mut self) {
        for index in 0..self.seen.owners.len() {
            // Below the number of members, which is one of 16 bits.
            let now = self.dataplane.signals(index as u16);
            if now == self.seen.signals[index] {
                continue;
            }
            let before = mem::replace(&mut self.seen.signals[index], now);
            let Some(backend) = self.seen.owners[index] else {
                continue;
            };
            if !is_direct(&self.config.backends[backend].mode) {
                self.seen.add_signals(backend, &before, &now);
            }
        }
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
        let counted = self
            .concern
            .place(backend)
            .map(|place| &mut self.seen.backends[place]);
        let new = match counted.and_then(|counted| counted.taken.replace(counts)) {
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
