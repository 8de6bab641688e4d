//! Garbage collection of flows on a thread of its own: scanning a full table takes longer than the
//! loop may wait.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{maps::Map, util::nr_cpus};
use steer_common::{
    abi::{
        COARSE_TICKS, FlowEntry, FlowKey, LatencyBuckets, NatForward, NatReverse, TICK_SHIFT, age,
        nat_state,
    },
    wire::PROTOCOL_TCP,
};
use steer_core::dataplane::{GcLimits, GcReport};

use super::batch;

/// Returns the kernel's coarse clock of flows in ticks: see [`TICK_SHIFT`].
pub fn now_ticks() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the result, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (nanoseconds >> TICK_SHIFT) as u32
}

/// Returns the kernel's fine clock: nanoseconds of the monotonic clock.
pub fn now_coarse_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the result, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A garbage collection in progress.
pub(super) struct RunningGc(Receiver<Result<GcReport>>);

impl RunningGc {
    /// Returns its result once it is done.
    pub(super) fn result(&self) -> Option<Result<GcReport>> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(anyhow!("garbage collection has failed"))),
        }
    }
}

/// Flow tables and latency histograms.
pub(super) struct FlowMaps {
    flows: OwnedFd,
    new_flows: OwnedFd,
    forward: OwnedFd,
    reverse: OwnedFd,
    measured: OwnedFd,
}

impl FlowMaps {
    /// Opens further handles of the tables: flows, new flows, both nat tables, and latencies.
    ///
    /// # Errors
    ///
    /// Returns an error if one is not a hash, or too many files are open.
    pub(super) fn new([flows, new_flows, forward, reverse, measured]: [&Map; 5]) -> Result<Self> {
        let own = |map: &Map| match map {
            Map::LruHashMap(data) | Map::HashMap(data) | Map::PerCpuHashMap(data) => {
                Ok(data.fd().as_fd().try_clone_to_owned()?)
            }
            _ => bail!("a table of flows is not a hash"),
        };
        Ok(Self {
            flows: own(flows)?,
            new_flows: own(new_flows)?,
            forward: own(forward)?,
            reverse: own(reverse)?,
            measured: own(measured)?,
        })
    }

    /// Returns the number of entries of the flow table, and of the table of new flows.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub(super) fn count(&self) -> Result<[usize; 2]> {
        let mut counts = [0; 2];
        for (table, count) in [&self.flows, &self.new_flows].into_iter().zip(&mut counts) {
            batch::for_each(table.as_fd(), |_: &FlowKey, _: &FlowEntry| *count += 1)?;
        }
        Ok(counts)
    }

    /// Returns the number of entries of both nat tables.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub(super) fn count_nat(&self) -> Result<[usize; 2]> {
        let mut counts = [0; 2];
        let [forward, reverse] = &mut counts;
        batch::for_each(self.forward.as_fd(), |_: &FlowKey, _: &NatForward| {
            *forward += 1
        })?;
        batch::for_each(self.reverse.as_fd(), |_: &FlowKey, _: &NatReverse| {
            *reverse += 1
        })?;
        Ok(counts)
    }

    /// Opens further handles of the same tables.
    ///
    /// # Errors
    ///
    /// Returns an error if too many files are open.
    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            flows: self.flows.try_clone()?,
            new_flows: self.new_flows.try_clone()?,
            forward: self.forward.try_clone()?,
            reverse: self.reverse.try_clone()?,
            measured: self.measured.try_clone()?,
        })
    }

    /// Starts a garbage collection.
    pub(super) fn start(self, limits: GcLimits) -> Result<RunningGc> {
        let (tell, told) = channel();
        thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || {
                // If this fails, nobody waits for the result any more.
                let _ = tell.send(self.run(&limits));
            })
            .context("cannot start a thread")?;
        Ok(RunningGc(told))
    }

    fn run(&self, limits: &GcLimits) -> Result<GcReport> {
        let mut sweep = GcReport::default();
        self.collect_flows(limits, &mut sweep)
            .context("the flow table cannot be collected")?;
        self.collect_nat(limits, &mut sweep)
            .context("the nat table cannot be collected")?;
        self.for_each_latency(&mut |id, sum| {
            sweep.latency.insert(id, *sum);
        })?;
        Ok(sweep)
    }

    fn collect_flows(&self, limits: &GcLimits, sweep: &mut GcReport) -> Result<()> {
        let now = now_ticks();
        let longest = limits.flow_idle_ticks.saturating_add(COARSE_TICKS);
        let is_idle = |entry: &FlowEntry, now| age(now, entry.last_ticks) > longest;
        for table in [&self.flows, &self.new_flows] {
            let mut idle = Vec::new();
            batch::for_each(table.as_fd(), |key: &FlowKey, entry: &FlowEntry| {
                if is_idle(entry, now) {
                    idle.push(*key);
                } else {
                    sweep.tracked.push((entry.slot, entry.member));
                }
            })?;
            for keys in idle.chunks(AT_ONCE) {
                let now = now_ticks();
                let mut still = Vec::new();
                for key in keys {
                    let entry: Option<FlowEntry> = batch::get(table.as_fd(), key)?;
                    match entry {
                        Some(entry) if is_idle(&entry, now) => {
                            still.push(*key);
                        }
                        Some(entry) => sweep.tracked.push((entry.slot, entry.member)),
                        None => {}
                    }
                }
                sweep.removed += still.len();
                batch::remove(table.as_fd(), &still)?;
            }
        }
        Ok(())
    }

    /// Collects nat flows. A flow is removed if neither of its entries is alive; an entry without
    /// its other half is removed once it is idle.
    fn collect_nat(&self, limits: &GcLimits, sweep: &mut GcReport) -> Result<()> {
        let (now, now_ns) = (now_ticks(), now_coarse_ns());
        // Only candidates are read a second time.
        let mut quiet = HashMap::new();
        let mut expired = HashSet::new();
        batch::for_each(self.reverse.as_fd(), |key: &FlowKey, entry: &NatReverse| {
            let life = reverse_age(limits, key, entry, now);
            if life == EntryAge::Gone {
                quiet.insert(*key, false);
            } else if life == EntryAge::Expired {
                expired.insert(*key);
            } else if nat_state::awaits_answer(entry.state, entry.peer_state)
                && !nat_state::is_closed(entry.state | entry.peer_state)
            {
                let waited = Duration::from_nanos(now_ns.saturating_sub(entry.request_ns));
                of_member(&mut sweep.waiting, entry.member).add(waited, limits.silence);
            }
        })?;
        let mut over = Vec::new();
        batch::for_each(self.forward.as_fd(), |key: &FlowKey, entry: &NatForward| {
            let reverse_key = entry.reverse_key(key);
            let life = forward_age(limits, key, entry, now);
            let is_gone = life == EntryAge::Gone;
            let reverse = quiet.get_mut(&reverse_key);
            // The backend may continue the flow while its own entry exists.
            let may_go = is_gone && (reverse.is_some() || !self.has_reverse(&reverse_key));
            if let Some(known) = reverse {
                *known = true;
            }
            if may_go {
                over.push((*key, reverse_key));
            } else {
                let is_expired = life != EntryAge::Open && expired.contains(&reverse_key);
                count_kept(sweep, entry, is_expired);
            }
        })?;
        for pairs in over.chunks(AT_ONCE) {
            self.remove_gone(limits, pairs, sweep)?;
        }
        let halves: Vec<_> = quiet
            .into_iter()
            .filter_map(|(key, known)| (!known).then_some(key))
            .collect();
        for keys in halves.chunks(AT_ONCE) {
            let now = now_ticks();
            let mut still = Vec::new();
            for key in keys {
                let entry: Option<NatReverse> = batch::get(self.reverse.as_fd(), key)?;
                let is_gone = entry
                    .is_some_and(|entry| reverse_age(limits, key, &entry, now) == EntryAge::Gone);
                if is_gone {
                    still.push(*key);
                }
            }
            sweep.removed += still.len();
            batch::remove(self.reverse.as_fd(), &still)?;
        }
        Ok(())
    }

    /// Removes flows, except those used or replaced since they were read.
    fn remove_gone(
        &self,
        limits: &GcLimits,
        pairs: &[(FlowKey, FlowKey)],
        sweep: &mut GcReport,
    ) -> Result<()> {
        let now = now_ticks();
        let (mut forward, mut reverse) = (Vec::new(), Vec::new());
        for (key, reverse_key) in pairs {
            let entry: Option<NatForward> = batch::get(self.forward.as_fd(), key)?;
            let Some(entry) = entry else { continue };
            let same = entry.reverse_key(key) == *reverse_key;
            let other: Option<NatReverse> = batch::get(self.reverse.as_fd(), reverse_key)?;
            let other = other.map(|other| reverse_age(limits, reverse_key, &other, now));
            let life = forward_age(limits, key, &entry, now);
            let other_gone = other.is_none_or(|other| other == EntryAge::Gone);
            if same && other_gone && life == EntryAge::Gone {
                forward.push(*key);
                reverse.push(*reverse_key);
            } else {
                let is_expired = life != EntryAge::Open && other == Some(EntryAge::Expired);
                count_kept(sweep, &entry, is_expired);
            }
        }
        sweep.removed += forward.len();
        // A flow without this half is reset at once; without the other one it would get no answer.
        batch::remove(self.forward.as_fd(), &forward)?;
        batch::remove(self.reverse.as_fd(), &reverse)?;
        Ok(())
    }

    fn has_reverse(&self, key: &FlowKey) -> bool {
        let found: io::Result<Option<NatReverse>> = batch::get(self.reverse.as_fd(), key);
        // An entry that cannot be read may exist.
        !matches!(found, Ok(None))
    }

    /// Calls a function with the measurements of each member, summed over CPUs, in chunks.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub(super) fn for_each_latency(
        &self,
        show: &mut dyn FnMut(u16, &LatencyBuckets),
    ) -> Result<()> {
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        batch::for_each_per_cpu(
            self.measured.as_fd(),
            cpus,
            |id: &u32, values: &[LatencyBuckets]| {
                let mut sum = LatencyBuckets::default();
                for cpu in values {
                    sum.add(cpu);
                }
                if let Ok(id) = u16::try_from(*id) {
                    show(id, &sum);
                }
            },
        )
        .context("latencies cannot be read")
    }
}

/// Number of entries re-read just before they are removed together: few enough that none becomes
/// active in between.
const AT_ONCE: usize = 256;

/// State of one direction of a nat flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryAge {
    Open,
    /// Idle for too long; whoever continues it gets a reset.
    Expired,
    Gone,
}

fn forward_age(limits: &GcLimits, key: &FlowKey, entry: &NatForward, now: u32) -> EntryAge {
    let state = entry.state | entry.peer_state;
    entry_age(
        limits,
        key,
        (entry.member, state, age(now, entry.last_ticks)),
    )
}

fn reverse_age(limits: &GcLimits, key: &FlowKey, entry: &NatReverse, now: u32) -> EntryAge {
    let state = entry.state | entry.peer_state;
    entry_age(
        limits,
        key,
        (entry.member, state, age(now, entry.last_ticks)),
    )
}

/// Returns the state of an entry of a member's flow, by its TCP state and age.
fn entry_age(limits: &GcLimits, key: &FlowKey, (member, state, idle): (u16, u8, u32)) -> EntryAge {
    let is_tcp = key.protocol == PROTOCOL_TCP;
    let own = limits.nat_idle.get(usize::from(member)).copied();
    let own = own.unwrap_or_default();
    let timeouts = limits.nat.with_idle(own.idle_ticks);
    if !timeouts.is_gone(is_tcp, state, idle) {
        return EntryAge::Open;
    }
    // A flow that was closed before is over by now, and nobody needs a reset.
    let was_open = is_tcp && state & nat_state::ASSURED != 0 && idle > timeouts.idle_ticks;
    if was_open && idle <= timeouts.idle_ticks.saturating_add(own.linger_ticks) {
        return EntryAge::Expired;
    }
    EntryAge::Gone
}

/// Counts a nat flow that stays. One that is over, or whose client would be told so, is not in flight.
fn count_kept(sweep: &mut GcReport, entry: &NatForward, is_expired: bool) {
    *of_member(&mut sweep.nat_flows, entry.member) += 1;
    if !is_expired && !nat_state::is_closed(entry.state | entry.peer_state) {
        *of_member(&mut sweep.in_flight, entry.member) += 1;
    }
}

fn of_member<T: Clone + Default>(all: &mut Vec<T>, member: u16) -> &mut T {
    let index = usize::from(member);
    if all.len() <= index {
        all.resize(index + 1, T::default());
    }
    &mut all[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_came_to_life_again_is_in_flight_and_one_that_is_over_is_not() {
        let mut sweep = GcReport::default();
        let open = NatForward {
            member: 2,
            state: nat_state::ASSURED,
            ..NatForward::default()
        };
        count_kept(&mut sweep, &open, false);
        count_kept(&mut sweep, &open, true);
        let reset = NatForward {
            state: nat_state::ASSURED | nat_state::RESET,
            ..open
        };
        count_kept(&mut sweep, &reset, false);
        assert_eq!(sweep.nat_flows, [0, 0, 3]);
        assert_eq!(sweep.in_flight, [0, 0, 1]);
    }
}
