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

use super::{Controller, desired::Numbers, health::Ports, why::Said};
use crate::{
    config::{Config, Mode},
    dataplane::Dataplane,
    domain::{
        health::State,
        outliers::{Outlier, Tally},
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
    /// Where connections of this node's own can be tried.
    pub(super) ports: Ports,
}

/// What was counted of a backend's connections, over all its members.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    now: Counts,
    /// As it was taken in last.
    taken: Option<Counts>,
    /// What it is compared with its peers by.
    tally: Tally,
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
            tally: Tally::default(),
        });
        let all = 0..config.backends.len();
        *self = Self {
            at: None,
            signals: vec![Signals::default(); owners.len()],
            owners,
            backends: counted.collect(),
            changed: all.clone().collect(),
            waiting: all.collect(),
            ports: Ports::find(config, numbers),
        };
    }

    /// Has a backend looked at in the next look.
    pub(super) fn wait_for(&mut self, backend: usize) {
        self.waiting.insert(backend);
    }

    /// What backends are compared by, in their order.
    pub(super) fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.backends.iter().map(|counted| counted.tally)
    }

    /// The same of one.
    pub(super) fn tally(&self, backend: usize) -> Tally {
        let found = self.backends.get(backend);
        found.map_or_else(Tally::default, |counted| counted.tally)
    }

    fn set_traffic(&mut self, backend: usize, traffic: Traffic, answer_bytes: u64) {
        let counted = &mut self.backends[backend];
        counted.now.traffic = traffic;
        counted.tally.requests = traffic.requests;
        counted.tally.answer_bytes = answer_bytes;
        if counted.taken.is_none_or(|taken| taken.traffic != traffic) {
            self.changed.insert(backend);
        }
    }

    /// Adds what was counted of a member since it was `before`.
    fn add_signals(&mut self, (backend, member): (usize, usize), before: &Signals, now: &Signals) {
        let Counted {
            now: counts, tally, ..
        } = &mut self.backends[backend];
        for (sum, before, now) in [
            (&mut counts.refused, before.refused, now.refused),
            (&mut counts.unanswered, before.unanswered, now.unanswered),
            (&mut counts.accepted, before.accepted, now.accepted),
            (&mut tally.accepted, before.accepted, now.accepted),
            (&mut tally.resets, before.resets, now.resets),
            (&mut tally.ended_early, before.ended_early, now.ended_early),
        ] {
            *sum = sum.wrapping_add(now.wrapping_sub(before));
        }
        self.changed.insert(backend);
        if (before.refused, before.unanswered) != (now.refused, now.unanswered) {
            self.ports.suspect(backend, member);
        }
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
            let Counted { now, taken, .. } = self.seen.backends[*index];
            let new = taken.and_then(|taken| now.traffic.since(&taken.traffic));
            if new.is_some_and(|new| new.answers(is_direct(&self.config.backends[*index].mode))) {
                answering.insert(*index);
            }
        }
        self.compare_with_peers(now);
        let waiting = mem::take(&mut self.seen.waiting);
        let mut done = Ok(());
        for index in changed.union(&waiting).copied() {
            let outlier = self.outlier(index, now);
            let backend = &self.config.backends[index];
            let known = self.known.get(&backend.name);
            let around = Around {
                direct: is_direct(&backend.mode),
                others: answering.len() > usize::from(answering.contains(&index)),
                well: known.is_some_and(|k| k.health(backend) == State::Up),
                confirmable: self.seen.ports.port(index).is_some(),
                outlier,
            };
            let name = backend.name.clone();
            let counts = self.seen.backends[index].now;
            // What cannot be written of one keeps nothing from the others.
            done = done.and(self.watch_with(&name, counts, around, now));
            self.request_connection(index, now);
            let Some(known) = self.known.get(&name) else {
                continue;
            };
            if known.watch.is_waiting() {
                self.seen.waiting.insert(index);
            }
            if known.is_in_question() {
                self.questionable.insert(index);
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
        let mut all = vec![(Traffic::default(), 0); self.config.backends.len()];
        for (backend, member) in owners.iter().zip(counted) {
            let Some(backend) = *backend else {
                continue;
            };
            let (traffic, answer_bytes) = &mut all[backend];
            *traffic = traffic.plus(&Traffic {
                flows: member.flows,
                requests: member.requests,
                answers: member.answers,
            });
            *answer_bytes += member.answer_bytes;
        }
        self.seen.at = Some(now);
        for (backend, (traffic, answer_bytes)) in all.into_iter().enumerate() {
            self.seen.set_traffic(backend, traffic, answer_bytes);
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
                self.seen.add_signals((backend, index), &before, &now);
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
        let silence = known.watch.silence().words(now).join(", ");
        match verdict {
            Verdict::Out(reason, time) => info!(
                backend,
                reason = reason.name(),
                r#for = %humantime_serde::re::humantime::format_duration(time),
                refused = new.refused,
                unanswered = new.unanswered,
                accepted = new.accepted,
                silence,
                "backend ejected by outlier detection: {reason}"
            ),
            verdict => info!(backend, silence, "backend {verdict}"),
        }
        let event = Event::Passive {
            backend: backend.to_owned(),
            before,
            counts: new,
            around,
            verdict,
        };
        self.recorder.tell_at(now, event);
        self.conclude(backend, (new, around.outlier), verdict, now)
    }

    /// Does what follows from a verdict.
    pub(super) fn conclude(
        &mut self,
        backend: &str,
        (counts, outlier): (Counts, Option<Outlier>),
        verdict: Verdict,
        now: Instant,
    ) -> Result<()> {
        let mut because = vec![
            format!("{} refused", counts.refused),
            format!("{} unanswered", counts.unanswered),
            format!("{} accepted", counts.accepted),
        ];
        if let Some(outlier) = outlier {
            because = words(outlier);
        }
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
            effect: verdict.to_string(),
        });
        self.rejudge(backend, now);
        if verdict == Verdict::Again {
            self.forget_failures(backend);
            self.warm_up(backend);
        }
        self.replan_of(backend, now)
    }
}

/// Whether a backend's own packets take another way.
pub(super) fn is_direct(mode: &Mode) -> bool {
    !matches!(mode, Mode::Nat { .. })
}

/// What an outlier was judged by.
fn words(outlier: Outlier) -> Vec<String> {
    let Outlier {
        own, peers, speed, ..
    } = outlier;
    let percent = |part: u32| f64::from(part) / 10_000.0;
    let mut words = vec![
        format!(
            "of {} connections it reset {} and ended {} without an answer: {:.0} %",
            own.accepted,
            own.resets,
            own.ended_early,
            percent(own.failure_share())
        ),
        format!(
            "its {} peers: {:.0} %",
            peers.count,
            percent(peers.failure_share)
        ),
        format!("{} bytes for {} requests", own.answer_bytes, own.requests),
    ];
    words.extend(speed.map(|speed| {
        format!(
            "first byte after {} us, its peers' after {} us",
            speed.own_us, speed.peers_us
        )
    }));
    words
}
