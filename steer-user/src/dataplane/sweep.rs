//! Removing flows that are over, beside the loop: a full table takes longer than the loop may wait.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::Map;
use steer_common::{
    abi::{FlowEntry, FlowKey, NatForward, NatReverse, TICK_SHIFT, age, nat_state},
    wire::PROTOCOL_TCP,
};

use super::{Sweep, SweepLimits, batch};

/// The kernel's clock of flows: see [`TICK_SHIFT`].
pub fn now_ms() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the answer, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (nanoseconds >> TICK_SHIFT) as u32
}

/// A sweep that is under way.
pub(super) struct Sweeping(Receiver<Result<Sweep>>);

impl Sweeping {
    /// What it left, once it is done.
    pub(super) fn result(&self) -> Option<Result<Sweep>> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(anyhow!("the sweep has failed"))),
        }
    }
}

/// The tables of flows.
pub(super) struct Flows {
    flows: OwnedFd,
    new_flows: OwnedFd,
    forward: OwnedFd,
    reverse: OwnedFd,
}

impl Flows {
    /// Holds the tables besides whoever has them: flows, new flows, and both of nat.
    ///
    /// # Errors
    /// If one is no hash, or there are too many open files.
    pub(super) fn new([flows, new_flows, forward, reverse]: [&Map; 4]) -> Result<Self> {
        let own = |map: &Map| match map {
            Map::LruHashMap(data) => Ok(data.fd().as_fd().try_clone_to_owned()?),
            _ => bail!("a table of flows is not an LRU hash"),
        };
        Ok(Self {
            flows: own(flows)?,
            new_flows: own(new_flows)?,
            forward: own(forward)?,
            reverse: own(reverse)?,
        })
    }

    /// Entries of the flow table, and of that of new flows.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(super) fn count(&self) -> Result<[usize; 2]> {
        let mut counts = [0; 2];
        for (table, count) in [&self.flows, &self.new_flows].into_iter().zip(&mut counts) {
            batch::for_each(table.as_fd(), |_: &FlowKey, _: &FlowEntry| *count += 1)?;
        }
        Ok(counts)
    }

    /// The same tables once more.
    ///
    /// # Errors
    /// If there are too many open files.
    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            flows: self.flows.try_clone()?,
            new_flows: self.new_flows.try_clone()?,
            forward: self.forward.try_clone()?,
            reverse: self.reverse.try_clone()?,
        })
    }

    /// Begins a sweep.
    pub(super) fn sweep(self, limits: SweepLimits) -> Result<Sweeping> {
        let (tell, told) = channel();
        thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || {
                // Nobody waits for it any more if this fails.
                let _ = tell.send(self.run(&limits));
            })
            .context("cannot start a thread")?;
        Ok(Sweeping(told))
    }

    fn run(&self, limits: &SweepLimits) -> Result<Sweep> {
        let now = now_ms();
        let mut sweep = Sweep::default();
        self.sweep_flows(limits, now, &mut sweep)
            .context("the flow table cannot be swept")?;
        self.sweep_nat(limits, now, &mut sweep)
            .context("the nat table cannot be swept")?;
        Ok(sweep)
    }

    fn sweep_flows(&self, limits: &SweepLimits, now: u32, sweep: &mut Sweep) -> Result<()> {
        for table in [&self.flows, &self.new_flows] {
            let mut idle = Vec::new();
            batch::for_each(table.as_fd(), |key: &FlowKey, entry: &FlowEntry| {
                if age(now, entry.last_ms) > limits.flow_idle_ms {
                    idle.push(*key);
                } else {
                    sweep.tracked.push((entry.slot, entry.member));
                }
            })?;
            sweep.removed += idle.len();
            batch::remove(table.as_fd(), &idle)?;
        }
        Ok(())
    }

    /// A flow is over when neither of its entries says otherwise; an entry that has lost its other
    /// half by eviction goes once it is idle by itself.
    fn sweep_nat(&self, limits: &SweepLimits, now: u32, sweep: &mut Sweep) -> Result<()> {
        // Only entries that look over are looked at twice.
        let mut quiet = HashMap::new();
        batch::for_each(self.reverse.as_fd(), |key: &FlowKey, entry: &NatReverse| {
            if limits.is_over(key, entry.state, age(now, entry.last_ms)) {
                quiet.insert(*key, false);
            }
        })?;
        let mut over = Vec::new();
        batch::for_each(self.forward.as_fd(), |key: &FlowKey, entry: &NatForward| {
            let reverse_key = reverse_key(key, entry);
            let is_over = limits.is_over(key, entry.state, age(now, entry.last_ms));
            let reverse = quiet.get_mut(&reverse_key);
            // The backend may talk on, as long as its own entry is there to say so.
            if is_over && (reverse.is_some() || !self.has_reverse(&reverse_key)) {
                over.push(*key);
                return;
            }
            if let Some(known) = reverse {
                *known = true;
            }
            let member = usize::from(entry.member);
            if sweep.nat_flows.len() <= member {
                sweep.nat_flows.resize(member + 1, 0);
            }
            sweep.nat_flows[member] += 1;
        })?;
        let silent: Vec<_> = quiet
            .into_iter()
            .filter_map(|(key, known)| (!known).then_some(key))
            .collect();
        sweep.removed += over.len().max(silent.len());
        batch::remove(self.forward.as_fd(), &over)?;
        batch::remove(self.reverse.as_fd(), &silent)?;
        Ok(())
    }

    fn has_reverse(&self, key: &FlowKey) -> bool {
        batch::contains(self.reverse.as_fd(), key, size_of::<NatReverse>())
    }
}

impl SweepLimits {
    fn is_over(&self, key: &FlowKey, state: u8, idle: u32) -> bool {
        let longest = if key.protocol == PROTOCOL_TCP {
            self.nat_idle_ms
        } else {
            self.nat_udp_idle_ms
        };
        idle > longest || (nat_state::is_over(state) && idle > self.nat_closed_ms)
    }
}

fn reverse_key(key: &FlowKey, entry: &NatForward) -> FlowKey {
    FlowKey {
        source: entry.backend,
        destination: entry.source,
        source_port: entry.backend_port,
        destination_port: entry.source_port,
        ..*key
    }
}
