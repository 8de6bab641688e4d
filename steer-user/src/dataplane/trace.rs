//! Tracing: another copy of the programs, which tells what becomes of packets, takes the place of the
//! usual one while somebody traces. Nobody pays for it else.

use std::{
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{ProgramFd, Xdp as Program},
};
use steer_common::abi::{
    TRACE_FIRST, TRACE_PROGRAMS, TRACE_TOLD, TRACE_USUAL, TraceEvent, TraceFilter, TraceState, maps,
};

use super::{object::trace_object, pins::Pins, sizes::Sizes, xdp::Programs};

/// Makes the tracing copy. That takes the kernel a while, so it is done beside the loop.
#[derive(Debug)]
pub struct Tracer {
    pub(super) pins: Pins,
    pub(super) sizes: Sizes,
    /// The usual main program.
    pub(super) usual: ProgramFd,
}

/// The tracing copy, to be attached.
pub struct TracePrograms {
    pub(super) programs: Programs,
    /// By which it hands over packets. The kernel empties the array when nobody holds it.
    _array: ProgramArray<MapData>,
}

/// What it tells.
pub struct TraceEvents {
    ring: RingBuf<MapData>,
    state: PerCpuArray<MapData, TraceState>,
}

impl Tracer {
    /// Loads the copy over the maps that are pinned. Nothing is attached yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn load(&self, filter: &TraceFilter) -> Result<(TracePrograms, TraceEvents)> {
        let mut programs = Programs::load(trace_object(), Some(&self.pins), &self.sizes, None)?;
        programs.first = TRACE_FIRST;
        let array = self.complete(&mut programs)?;
        let ebpf = &mut programs.ebpf;
        let mut filters: Array<MapData, TraceFilter> =
            take(ebpf, maps::TRACE_FILTER)?.try_into()?;
        filters.set(0, filter, 0)?;
        let events = TraceEvents {
            ring: take(ebpf, maps::TRACE_EVENTS)?.try_into()?,
            state: take(ebpf, maps::TRACE_STATE)?.try_into()?,
        };
        let programs = TracePrograms {
            programs,
            _array: array,
        };
        Ok((programs, events))
    }

    /// Loads what the usual programs do not have.
    fn complete(&self, programs: &mut Programs) -> Result<ProgramArray<MapData>> {
        let mut array: ProgramArray<MapData> =
            take(&mut programs.ebpf, maps::TRACE_PROGRAMS)?.try_into()?;
        let told = programs.load_program(TRACE_PROGRAMS[TRACE_TOLD as usize])?;
        array.set(TRACE_TOLD, told.fd()?, 0)?;
        array.set(TRACE_USUAL, &self.usual, 0)?;
        programs.load_program(TRACE_FIRST)?;
        Ok(array)
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

impl TracePrograms {
    /// The program that every packet comes to first, to run it on packets of a test.
    ///
    /// # Errors
    /// None, unless the object is not ours.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.programs.main()
    }

    /// Maps that the copy has for itself: all others are those that the usual programs have.
    #[must_use]
    pub fn own_maps(&self) -> Vec<String> {
        let pinned = |name: &&str| !super::specs::SPECS.iter().any(|spec| spec.name == *name);
        let names = self.programs.ebpf.maps().map(|(name, _)| name);
        let mut own: Vec<String> = names.filter(pinned).map(str::to_owned).collect();
        own.sort();
        own
    }
}

impl TraceEvents {
    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<Box<TraceEvent>> {
        loop {
            let item = self.ring.next()?;
            if item.len() < size_of::<TraceEvent>() {
                continue;
            }
            // SAFETY: as many bytes as an event has, and any bytes are a valid one.
            let event = unsafe { ptr::read_unaligned(item.as_ptr().cast::<TraceEvent>()) };
            return Some(Box::new(event));
        }
    }

    /// Events that nobody will see, because the ring was full.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn lost(&self) -> Result<u64> {
        let all = self.state.get(&0, 0)?;
        Ok(all.iter().map(|cpu| cpu.lost).sum())
    }
}

impl AsRawFd for TraceEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
