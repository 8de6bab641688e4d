//! [`TrafficCounters`] over the kernel's maps.

use std::{collections::HashSet, sync::atomic::Ordering};

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapError, PerCpuValues},
    util::nr_cpus,
};
use steer_common::{
    abi::{self, AdmissionDrops, LatencyBuckets, MemberCounters, MemberState, Signals},
    verdict::DropReason,
};
use steer_core::dataplane::{Counters, SteeringTables as _, TrafficCounters};

use super::KernelMaps;
use crate::retry;

impl TrafficCounters for KernelMaps {
    fn in_flight(&self, id: u16) -> i64 {
        self.in_flight_word(id)
            .load(Ordering::Relaxed)
            .cast_signed()
    }

    fn add_in_flight(&mut self, id: u16, by: i64) {
        self.in_flight_word(id)
            .fetch_add(by.cast_unsigned(), Ordering::SeqCst);
    }

    fn counters(&self) -> Result<Counters> {
        let is_there = |id: &u32| self.members.get(*id).state != MemberState::Absent as u8;
        let end = (0..self.members.len()).rev().find(is_there);
        let end = end.map_or(0, |last| last as u16 + 1);
        let mut counters = Counters {
            members: self.traffic.read_by(end, &mut Vec::new())?,
            ..Counters::default()
        };
        for (id, counter) in (0..).zip(&mut counters.members) {
            if !is_there(&id) {
                *counter = MemberCounters::default();
            }
        }
        let all = self.members.len() as usize;
        counters.members.resize_with(all, MemberCounters::default);
        for reason in 0..DropReason::COUNT {
            counters
                .drops
                .push(self.drop_counts.get(&reason, 0)?.iter().sum());
        }
        let mut present = self.services();
        present.extend(self.policies());
        let numbered = present
            .iter()
            .filter(|policy| u32::from(policy.id) < abi::MAX_SERVICE_ENTRIES);
        for policy in numbered {
            let mut sum = AdmissionDrops::default();
            for cpu in self.refused.get(&u32::from(policy.id), 0)?.iter() {
                sum.add(cpu);
            }
            counters.admission_drops.insert(policy.id, sum);
        }
        Ok(counters)
    }

    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>> {
        self.traffic.read(end)
    }

    fn set_latency_members(&mut self, members: &[u16]) -> Result<()> {
        let present: HashSet<u32> = self.measured.keys().flatten().collect();
        let wanted: HashSet<u32> = members.iter().map(|id| u32::from(*id)).collect();
        for id in present.difference(&wanted) {
            self.measured.remove(id)?;
        }
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        for id in wanted.difference(&present) {
            let zeros = vec![LatencyBuckets::default(); cpus];
            let zeros = || PerCpuValues::try_from(zeros.clone());
            retry::update(|| self.measured.insert(id, zeros()?, 0))
                .with_context(|| format!("member {id}: cannot be measured"))?;
        }
        Ok(())
    }

    fn latency(&self, id: u16) -> Result<Option<LatencyBuckets>> {
        match self.measured.get(&u32::from(id), 0) {
            Ok(values) => {
                let mut sum = LatencyBuckets::default();
                for cpu in values.iter() {
                    sum.add(cpu);
                }
                Ok(Some(sum))
            }
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn for_each_latency(&self, show: &mut dyn FnMut(u16, &LatencyBuckets)) -> Result<()> {
        self.tables.for_each_latency(show)
    }

    fn signals(&self, id: u16) -> Signals {
        self.signals.get(u32::from(id))
    }
}
