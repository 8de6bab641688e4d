//! Traffic counters of members, read with one system call.

use std::{
    mem,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::{maps::Map, util::nr_cpus};
use steer_common::abi::MemberCounters;

use super::batch;

/// Counters of members.
pub(super) struct Traffic {
    map: OwnedFd,
    cpus: usize,
    /// Buffer for values, by member and CPU.
    values: Vec<MemberCounters>,
}

impl Traffic {
    /// Opens a further handle of the map.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not an array, or too many files are open.
    pub(super) fn new(map: &Map) -> Result<Self> {
        let Map::PerCpuArray(data) = map else {
            bail!("the counters of members are not an array");
        };
        Ok(Self {
            map: data.fd().as_fd().try_clone_to_owned()?,
            cpus: nr_cpus().map_err(|(_, error)| error)?,
            values: Vec::new(),
        })
    }

    /// Returns the counters of members below `end`, summed over CPUs.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub(super) fn read(&mut self, end: u16) -> Result<Vec<MemberCounters>> {
        let mut values = mem::take(&mut self.values);
        let read = self.read_by(end, &mut values);
        self.values = values;
        read
    }

    /// Reads the counters into a given buffer.
    pub(super) fn read_by(
        &self,
        end: u16,
        values: &mut Vec<MemberCounters>,
    ) -> Result<Vec<MemberCounters>> {
        batch::first_of_array(self.map.as_fd(), self.cpus, usize::from(end), values)
            .context("the counters of members cannot be read")?;
        let sum = |of: &[MemberCounters]| {
            let mut sum = MemberCounters::default();
            of.iter().for_each(|cpu| sum.add(cpu));
            sum
        };
        Ok(values.chunks(self.cpus).map(sum).collect())
    }
}
