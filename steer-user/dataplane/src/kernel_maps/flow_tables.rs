//! [`FlowTables`] over the kernel's maps.

use anyhow::Result;
use steer_common::abi::{
    FlowEntry, FlowKey, FragmentEntry, FragmentKey, NatForward, NatReverse, SourceKey,
};
use steer_core::dataplane::{FlowTables, GcLimits, GcReport};

use super::KernelMaps;

impl FlowTables for KernelMaps {
    fn start_gc(&mut self, limits: GcLimits) -> Result<()> {
        if self.sweeping.is_none() {
            self.sweeping = Some(self.tables.try_clone()?.start(limits)?);
        }
        Ok(())
    }

    fn take_gc_report(&mut self) -> Option<Result<GcReport>> {
        let result = self.sweeping.as_ref()?.result()?;
        self.sweeping = None;
        Some(result)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let known = self.flows.get(key, 0).ok();
        known.or_else(|| self.new_flows.get(key, 0).ok())
    }

    fn nat_forward(&self, key: &FlowKey) -> Option<NatForward> {
        self.nat_forward.get(key, 0).ok()
    }

    fn nat_reverse(&self, key: &FlowKey) -> Option<NatReverse> {
        self.nat_reverse.get(key, 0).ok()
    }

    fn open_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.flows.get(key, 0).ok()
    }

    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.new_flows.get(key, 0).ok()
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.get(key, 0).ok()
    }

    fn source(&self, key: &SourceKey) -> Option<u64> {
        self.sources.get(key, 0).ok()
    }
}
