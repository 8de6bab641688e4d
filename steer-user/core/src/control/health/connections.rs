//! Counts of connections, by backend.
//!
//! They are read every few milliseconds, over all backends, and almost nothing of them changes: so they lie in rows, by
//! number, and only what differs from before is looked into.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::abi::Signals;
use tracing::info;

use super::confirmations::Ports;
use crate::{
    config::Config,
    control::{backends::state::BackendState, site::Site},
    dataplane::Dataplane,
    domain::{
        outliers::{Outlier, Tally},
        passive::{Counts, Verdict},
        silence::Traffic,
    },
};

/// Interval of reading what went to members and came back, for each thousand of them: it takes less than a hundredth of
/// a core.
const TRAFFIC_INTERVAL: Duration = Duration::from_millis(20);

/// Counts of all backends' connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    /// Time at which traffic was read last.
    read_at: Option<Instant>,
    /// The backends of members, by the numbers of these.
    owners: Vec<Option<usize>>,
    /// Counts of each member, as they were read last.
    signals: Vec<Signals>,
    backends: Vec<Counted>,
    /// Backends whose counts are to be taken in.
    changed: BTreeSet<usize>,
    /// Backends of which time alone may change something.
    waiting: BTreeSet<usize>,
    /// Ports at which connections of this node's own can be tried.
    pub(crate) ports: Ports,
}

/// Counts of a backend's connections, over all its members.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    now: Counts,
    /// Counts that were taken in last.
    taken: Option<Counts>,
    /// Counts that it is compared with its peers by.
    tally: Tally,
}

impl Connections {
    /// Takes another configuration; what was taken in of backends goes on, by their names.
    pub(crate) fn reconfigure(&mut self, before: &Config, site: &Site) {
        let named = before.backends.iter().map(|b| b.name.as_str());
        let taken: HashMap<&str, &Counted> = named.zip(&self.backends).collect();
        let members = &site.ids.members;
        let end = members.values().max().map_or(0, |last| last + 1);
        let mut owners = vec![None; usize::from(end)];
        for ((_, backend), id) in members {
            owners[usize::from(*id)] = Some(*backend);
        }
        let backends = &site.config.backends;
        let counted = backends.iter().map(|b| Counted {
            now: Counts::default(),
            taken: taken.get(b.name.as_str()).and_then(|counted| counted.taken),
            tally: Tally::default(),
        });
        let all = 0..backends.len();
        *self = Self {
            read_at: None,
            signals: vec![Signals::default(); owners.len()],
            owners,
            backends: counted.collect(),
            changed: all.clone().collect(),
            waiting: all.collect(),
            ports: Ports::find(site),
        };
    }

    /// Has a backend looked at in the next poll.
    pub(crate) fn wait_for(&mut self, backend: usize) {
        self.waiting.insert(backend);
    }

    /// Counts that backends are compared by, in their order.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.backends.iter().map(|counted| counted.tally)
    }

    /// Counts that a backend is compared by.
    pub(crate) fn tally(&self, backend: usize) -> Tally {
        let found = self.backends.get(backend);
        found.map_or_else(Tally::default, |counted| counted.tally)
    }

    /// Takes the backends whose counts changed.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<usize> {
        mem::take(&mut self.changed)
    }

    /// Takes the backends that time alone may change something of.
    pub(crate) fn take_waiting(&mut self) -> BTreeSet<usize> {
        mem::take(&mut self.waiting)
    }

    /// Counts of a backend now.
    pub(crate) fn counts(&self, backend: usize) -> Counts {
        self.backends[backend].now
    }

    /// Notes that counts of a backend are taken in; returns those that were taken in before.
    pub(crate) fn take_in(&mut self, backend: usize, counts: Counts) -> Option<Counts> {
        self.backends.get_mut(backend)?.taken.replace(counts)
    }

    /// Returns whether clients of a backend got answers since its counts were taken in.
    pub(crate) fn answers(&self, site: &Site, backend: usize) -> bool {
        let Counted { now, taken, .. } = self.backends[backend];
        let new = taken.and_then(|taken| now.traffic.since(&taken.traffic));
        let is_direct = site.config.backends[backend].mode.is_direct_return();
        new.is_some_and(|new| new.answers(is_direct))
    }

    /// Reads what is due.
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub(crate) fn read(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
        now: Instant,
    ) -> Result<()> {
        self.read_traffic(site, dataplane, now)?;
        self.read_signals(site, dataplane);
        Ok(())
    }

    /// Reads what went to members and came back, if it is time to.
    fn read_traffic(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
        now: Instant,
    ) -> Result<()> {
        let owners = &self.owners;
        let every = TRAFFIC_INTERVAL * u32::try_from(owners.len() / 1000 + 1).unwrap_or(u32::MAX);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= every;
        // Polls do not come at exact times.
        if owners.len() >= 1000 && !self.read_at.is_none_or(is_due) {
            return Ok(());
        }
        // The number of members is one of 16 bits.
        let counted = dataplane.traffic(owners.len() as u16)?;
        let mut all = vec![(Traffic::default(), 0); site.config.backends.len()];
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
        self.read_at = Some(now);
        for (backend, (traffic, answer_bytes)) in all.into_iter().enumerate() {
            self.set_traffic(backend, traffic, answer_bytes);
        }
        Ok(())
    }

    /// Reads the signs of trouble with members that are reached by `nat`.
    fn read_signals(&mut self, site: &Site, dataplane: &impl Dataplane) {
        for index in 0..self.owners.len() {
            // Below the number of members, which is one of 16 bits.
            let now = dataplane.signals(index as u16);
            if now == self.signals[index] {
                continue;
            }
            let before = mem::replace(&mut self.signals[index], now);
            let Some(backend) = self.owners[index] else {
                continue;
            };
            if !site.config.backends[backend].mode.is_direct_return() {
                self.add_signals((backend, index), &before, &now);
            }
        }
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

/// Logs what connections say of a backend.
pub(crate) fn log(
    backend: &str,
    state: &BackendState,
    new: &Counts,
    verdict: Verdict,
    now: Instant,
) {
    let silence = state.watch.silence().describe(now).join(", ");
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
}

/// Inputs of an outlier, in words.
pub(crate) fn words(outlier: Outlier) -> Vec<String> {
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
