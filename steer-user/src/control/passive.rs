//! What the packets of flows under mode `nat` tell of their backends.

use std::collections::HashMap;

use anyhow::Result;
use steer_common::abi::{Measured, Mode};
use tracing::warn;

use super::Controller;
use crate::{
    dataplane::{Dataplane, Sweep},
    domain::latency::{self, Passive, Waiting},
};

/// Answers within a minute that have to be measured before they say something of a member.
const MEASURED_ANSWERS: u64 = 8;

/// What this node measured of a member within the last minute: what its beacon says is held against it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Observed {
    /// Microseconds from a request to the first byte that comes back, half of the time.
    pub(super) first_byte_us: Option<u32>,
    /// The same to the second burst.
    pub(super) second_burst_us: Option<u32>,
    /// Time that requests were in progress, in microseconds in each reading.
    pub(super) busy_us: Option<u64>,
}

impl Observed {
    fn summarize(readings: &latency::Readings) -> Self {
        let recent = readings.recent();
        let half = |histogram: &latency::Histogram| {
            let known = histogram.count() >= MEASURED_ANSWERS;
            let half = known.then(|| histogram.quantile(0.5))??;
            u32::try_from(half.as_micros()).ok()
        };
        let busy = recent.first_byte.sum() + recent.gap.sum();
        let each = busy.as_micros() / readings.recent_readings().max(1) as u128;
        Self {
            first_byte_us: half(&recent.first_byte),
            second_burst_us: half(&recent.second_burst),
            busy_us: (recent.first_byte.count() >= MEASURED_ANSWERS)
                .then(|| u64::try_from(each).unwrap_or(u64::MAX)),
        }
    }
}

/// What sweeps found, by member.
#[derive(Debug, Default)]
pub(super) struct Readings {
    latencies: HashMap<u16, latency::Readings>,
    observed: HashMap<u16, Observed>,
    waiting: Vec<Waiting>,
    /// Whether the kernel had no memory to measure all members.
    pub(super) lacks: bool,
}

impl Readings {
    /// Takes what a sweep found.
    pub(super) fn take(&mut self, sweep: &Sweep) {
        self.latencies
            .retain(|id, _| sweep.measured.contains_key(id));
        for (id, measured) in &sweep.measured {
            self.latencies.entry(*id).or_default().take(measured);
        }
        let all = self.latencies.iter();
        self.observed = all.map(|(id, of)| (*id, Observed::summarize(of))).collect();
        self.waiting.clone_from(&sweep.waiting);
    }

    /// What was measured of a member lately.
    pub(super) fn observed(&self, id: u16) -> Observed {
        self.observed.get(&id).copied().unwrap_or_default()
    }

    fn waiting(&self, id: u16) -> Waiting {
        let found = self.waiting.get(usize::from(id));
        found.copied().unwrap_or_default()
    }
}

/// What packets tell of a member: a backend as one service sees it.
#[derive(Clone, Debug)]
pub struct MemberPassive {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// What packets tell of it.
    pub passive: Passive,
}

impl<D: Dataplane> Controller<D> {
    /// What packets tell of each member with mode `nat`, up to now; of flows that wait, as the last sweep found
    /// them. For signs of trouble alone, which cost nothing to read, see
    /// [`Dataplane::signals`].
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub fn passive(&self) -> Result<Vec<MemberPassive>> {
        let mut found = HashMap::new();
        self.dataplane.all_measured(&mut |id, measured| {
            found.insert(id, self.passive_with(id, measured));
        })?;
        let members = self.numbers.members.iter();
        let all = members.filter_map(|((service, backend), id)| {
            Some(MemberPassive {
                service: self.config.services[*service].name.clone(),
                backend: self.config.backends[*backend].name.clone(),
                passive: found.remove(id)?,
            })
        });
        Ok(all.collect())
    }

    /// The same of one member. `None` if it is not measured.
    pub(super) fn passive_of(&self, id: u16) -> Result<Option<Passive>> {
        let measured = self.dataplane.measured(id)?;
        Ok(measured.map(|measured| self.passive_with(id, &measured)))
    }

    fn passive_with(&self, id: u16, measured: &Measured) -> Passive {
        let nothing = latency::Readings::default();
        let readings = self.passive.latencies.get(&id).unwrap_or(&nothing);
        let [total, recent] = readings.with(measured);
        Passive {
            total,
            recent,
            signals: self.dataplane.signals(id),
            waiting: self.passive.waiting(id),
        }
    }

    /// Has the members measured that can be.
    pub(super) fn measure_members(&mut self) {
        let of_nat = |id: &u16| self.dataplane.member(*id).mode == Mode::Nat as u8;
        let members: Vec<u16> = if self.config.nat.burst_gap.is_zero() {
            Vec::new()
        } else {
            self.numbers
                .members
                .values()
                .copied()
                .filter(of_nat)
                .collect()
        };
        // The kernel may have no memory for it at the moment, and steers without it. It is asked again after
        // the next sweep.
        let done = self.dataplane.set_measured(&members);
        self.passive.lacks = done.is_err();
        if let Err(error) = done {
            warn!(
                error = format!("{error:#}"),
                "not all members of mode nat are measured"
            );
        }
    }
}
