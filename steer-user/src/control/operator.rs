//! What the operator says of backends: drain, undrain, weigh.

use std::{
    collections::HashSet,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use steer_common::abi::Slot;
use tracing::info;

use super::{Controller, Drain, Refused, backend::Known, why::Said};
use crate::{
    config::MAX_CAPACITY,
    dataplane::{Dataplane, Sweep},
    journal::Event,
};

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DrainStatus {
    /// "draining": new flows go elsewhere, open ones go on. "gone": its open flows are over, or the
    /// deadline has passed and they were ended.
    pub state: String,
    /// When open flows are ended, if they are.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub until: Option<SystemTime>,
    /// Slots whose open flows still belong to it.
    pub slots: usize,
    /// Flows to it that are remembered by themselves, as of the last sweep.
    pub flows: usize,
}

/// A drain that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    /// Since when.
    pub(super) since: Instant,
    pub(super) drain: Drain,
    /// When its flows are ended, by the loop's clock.
    pub(super) deadline: Option<Instant>,
    /// Whether nothing is sent to it any more.
    pub(super) over: bool,
}

impl Draining {
    /// One that begins now.
    pub(super) fn new(drain: Drain, now: Instant) -> Self {
        let left = drain.until.map(|until| {
            let left = until.duration_since(SystemTime::now());
            // One that passed while no daemon ran is due.
            left.unwrap_or_default()
        });
        Self {
            since: now,
            drain,
            deadline: left.and_then(|left| now.checked_add(left)),
            over: false,
        }
    }
}

impl<D: Dataplane> Controller<D> {
    /// Takes what the operator says of a backend.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn drain(&mut self, name: &str, drained: bool, now: Instant) -> Result<(), Refused> {
        let drain = drained.then(Drain::default);
        self.drain_by(name, drain, "the operator", now)
    }

    /// As [`Self::drain`], with a deadline, and who said so.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn drain_by(
        &mut self,
        name: &str,
        drain: Option<Drain>,
        by: &str,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(known) = self.known.get_mut(name) else {
            return Err(Refused::Unknown(name.to_owned()));
        };
        self.drained.set(name, drain);
        known.drained = drain.map(|drain| Draining::new(drain, now));
        let (drained, until) = (drain.is_some(), drain.and_then(|drain| drain.until));
        info!(
            backend = name,
            drained,
            ?until,
            by,
            "the operator has spoken"
        );
        self.why.note(Said {
            backend: name.to_owned(),
            service: None,
            what: "operator".to_owned(),
            because: vec![format!("said by {by}")],
            effect: if drained {
                "drains"
            } else {
                "drains no longer"
            }
            .to_owned(),
        });
        let event = Event::Drained {
            by: by.to_owned(),
            backend: name.to_owned(),
            drained,
            until,
        };
        self.recorder.tell(event);
        self.replan(now, name).map_err(Refused::Failed)
    }

    /// Gives a backend a weight in place of its capacity, or none any more.
    ///
    /// # Errors
    /// If there is none of that name, or the weight is out of range.
    pub fn weigh_by(
        &mut self,
        name: &str,
        weight: Option<u32>,
        by: &str,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(known) = self.known.get_mut(name) else {
            return Err(Refused::Unknown(name.to_owned()));
        };
        if weight.is_some_and(|weight| !(1..=MAX_CAPACITY).contains(&weight)) {
            return Err(Refused::Weight);
        }
        self.weights.set(name, weight);
        known.weight = weight;
        info!(backend = name, weight, by, "the operator has spoken");
        self.why.note(Said {
            backend: name.to_owned(),
            service: None,
            what: "operator".to_owned(),
            because: vec![format!("said by {by}")],
            effect: weight.map_or("its capacity counts".to_owned(), |w| format!("weighs {w}")),
        });
        let event = Event::Weighed {
            by: by.to_owned(),
            backend: name.to_owned(),
            weight,
        };
        self.recorder.tell(event);
        self.replan(now, name).map_err(Refused::Failed)
    }

    /// Reasons why drains or weights are not in the state directory: a restart would not know them.
    pub(super) fn unsaved(&self) -> Vec<String> {
        let unsaved = [self.drained.unsaved(), self.weights.unsaved()];
        unsaved.into_iter().flatten().map(str::to_owned).collect()
    }

    /// Writes drains and weights that could not be written before.
    pub(super) fn save_operator(&mut self) {
        self.drained.save();
        self.weights.save();
    }

    /// Gives what is known of a backend what the operator said of it before.
    pub(super) fn remind(&self, name: &str, known: &mut Known, now: Instant) {
        let drain = self.drained.of(name);
        known.drained = drain.map(|drain| Draining::new(drain, now));
        known.weight = self.weights.of(name);
    }

    /// Ends the flows of backends whose deadline has passed.
    pub(super) fn end_drains(&mut self, now: Instant) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        for (name, known) in &mut self.known {
            if let Some(draining) = &mut known.drained
                && !draining.over
                && draining.deadline.is_some_and(|deadline| now >= deadline)
            {
                draining.over = true;
                ended.push(name.clone());
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        ended.sort();
        for backend in ended {
            info!(
                backend,
                "the drain's deadline has passed: its open flows are ended"
            );
            self.recorder.tell(Event::DrainOver { backend });
        }
        let ops = self.member_ops();
        self.apply(ops)
    }

    /// Remembers what a sweep found of flows, and since when it was under way.
    pub(super) fn note_flows(&mut self, sweep: &Sweep) {
        self.remembered.clear();
        for (_, member) in &sweep.tracked {
            *self.remembered.entry(*member).or_default() += 1;
        }
        for (member, count) in sweep.nat_flows.iter().enumerate() {
            if *count > 0 {
                *self.remembered.entry(member as u16).or_default() += *count as usize;
            }
        }
        self.counted = Some(self.swept);
    }

    /// How far the drain of a backend is, by its index in the configuration.
    pub(super) fn drain_status(&self, backend: usize) -> Option<DrainStatus> {
        let known = self.known.get(&self.config.backends[backend].name)?;
        let draining = known.drained.as_ref()?;
        let members = self.numbers.members.iter();
        let own: HashSet<u16> = members
            .filter(|((_, b), _)| *b == backend)
            .map(|(_, id)| *id)
            .collect();
        let is_own = |slot: &Slot| own.contains(&slot.owner);
        let tables = self.tables.iter();
        let slots = tables
            .map(|range| {
                let slots = self.dataplane.slots(range.clone());
                slots.into_iter().filter(is_own).count()
            })
            .sum();
        let flows = own.iter().filter_map(|id| self.remembered.get(id)).sum();
        // What an older sweep says may not be true any more.
        let counted = self.counted.is_some_and(|at| at >= draining.since);
        let empty = counted && slots == 0 && flows == 0;
        let state = if draining.over || empty {
            "gone"
        } else {
            "draining"
        };
        Some(DrainStatus {
            state: state.to_owned(),
            until: draining.drain.until,
            slots,
            flows,
        })
    }
}
