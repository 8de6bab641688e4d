//! Latencies of backends, measured by the packets of flows under mode `nat`.

use std::collections::HashMap;

use anyhow::Result;
use steer_common::abi::{LatencyBuckets, Mode};
use tracing::warn;

use crate::{
    control::site::Site,
    dataplane::{Dataplane, GcReport},
    domain::latency::{self, Passive, Waiting},
};

/// Answers within a minute that have to be measured before they say something of a member.
const MEASURED_ANSWERS: u64 = 8;

/// Measurements of a member by this node within the last minute: its beacon's reports are held against them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// Microseconds from a request to the first byte that comes back, half of the time.
    pub(crate) first_byte_us: Option<u32>,
    /// The same to the second burst.
    pub(crate) second_burst_us: Option<u32>,
    /// Time that requests were in progress, in microseconds in each reading.
    pub(crate) busy_us: Option<u64>,
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

/// Readings of garbage collections, by member.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassiveLatency {
    latencies: HashMap<u16, latency::Readings>,
    observed: HashMap<u16, Observed>,
    waiting: Vec<Waiting>,
    /// Whether the kernel had no memory to measure all members.
    lacks: bool,
}

impl PassiveLatency {
    /// Takes what a garbage collection found.
    pub(crate) fn add_report(
        &mut self,
        sweep: &GcReport,
        site: &Site,
        dataplane: &mut impl Dataplane,
    ) {
        self.latencies
            .retain(|id, _| sweep.latency.contains_key(id));
        for (id, measured) in &sweep.latency {
            self.latencies.entry(*id).or_default().add_reading(measured);
        }
        let all = self.latencies.iter();
        self.observed = all.map(|(id, of)| (*id, Observed::summarize(of))).collect();
        self.waiting.clone_from(&sweep.waiting);
        if self.lacks {
            self.measure_members(site, dataplane);
        }
    }

    /// Returns what was measured of a member within the last minute.
    pub(crate) fn observed(&self, id: u16) -> Observed {
        self.observed.get(&id).copied().unwrap_or_default()
    }

    /// The same for a dry run, which needs what was measured recently only.
    pub(crate) fn for_dry_run(&self) -> Self {
        Self {
            observed: self.observed.clone(),
            ..Self::default()
        }
    }

    /// Returns what packets say of each member with mode `nat`, up to now; of flows that wait, as the last garbage
    /// collection found them.
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub(crate) fn all(
        &self,
        site: &Site,
        dataplane: &impl Dataplane,
    ) -> Result<Vec<MemberPassive>> {
        let mut found = HashMap::new();
        dataplane.for_each_latency(&mut |id, measured| {
            found.insert(id, self.with(id, measured, dataplane));
        })?;
        let members = site.ids.members.iter();
        let all = members.filter_map(|((service, backend), id)| {
            Some(MemberPassive {
                service: site.config.services[*service].name.clone(),
                backend: site.config.backends[*backend].name.clone(),
                passive: found.remove(id)?,
            })
        });
        Ok(all.collect())
    }

    /// Returns what packets say of a member; `None` if it is not measured.
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub(crate) fn of_member(&self, id: u16, dataplane: &impl Dataplane) -> Result<Option<Passive>> {
        let measured = dataplane.latency(id)?;
        Ok(measured.map(|measured| self.with(id, &measured, dataplane)))
    }

    fn with(&self, id: u16, measured: &LatencyBuckets, dataplane: &impl Dataplane) -> Passive {
        let nothing = latency::Readings::default();
        let readings = self.latencies.get(&id).unwrap_or(&nothing);
        let [total, recent] = readings.with(measured);
        Passive {
            total,
            recent,
            signals: dataplane.signals(id),
            waiting: self.waiting(id),
        }
    }

    /// Has the members measured that can be.
    pub(crate) fn measure_members(&mut self, site: &Site, dataplane: &mut impl Dataplane) {
        let members: Vec<u16> = if site.config.nat.burst_gap.is_zero() {
            Vec::new()
        } else {
            let members = site.ids.members.values().copied();
            members
                .filter(|id| dataplane.member(*id).mode == Mode::Nat as u8)
                .collect()
        };
        // The kernel may have no memory for it at the moment, and steers without it. It is asked again after
        // the next garbage collection.
        let done = dataplane.set_latency_members(&members);
        self.lacks = done.is_err();
        if let Err(error) = done {
            warn!(
                error = format!("{error:#}"),
                "not all members of mode nat are measured"
            );
        }
    }

    fn waiting(&self, id: u16) -> Waiting {
        let found = self.waiting.get(usize::from(id));
        found.copied().unwrap_or_default()
    }
}

/// Measurements of a member: a backend as one service sees it.
#[derive(Clone, Debug)]
pub struct MemberPassive {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// Measurements.
    pub passive: Passive,
}
