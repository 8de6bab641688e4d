//! Tracing: a copy of the programs that emits events about packets replaces the usual one while a
//! trace runs, so tracing costs nothing otherwise.

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
use aya_log::EbpfLogger;
use steer_common::abi::{
    TRACE_EMIT, TRACE_FIRST, TRACE_MAIN, TRACE_PROGRAMS, TraceEvent, TraceFilter, TraceState, maps,
};
use steer_common::data_path_log::LogLevel;

use super::{
    data_path_log::{DataPathLog, Sink},
    pins::Pins,
    sizes::Sizes,
    xdp::{Object, Programs},
};

/// Loader of the tracing copy. Loading takes the kernel a while, so it is done outside the loop.
#[derive(Debug)]
pub struct Tracer {
    pub(super) pins: Pins,
    pub(super) sizes: Sizes,
    /// Usual main program.
    pub(super) usual: ProgramFd,
}

/// Loaded tracing copy, ready to be attached.
pub struct TracePrograms {
    pub(super) programs: Programs,
    /// Array of its tail calls. The kernel empties the array when its last handle is closed.
    _array: ProgramArray<MapData>,
}

/// Events of the tracing copy.
pub struct TraceEvents {
    ring: RingBuf<MapData>,
    state: PerCpuArray<MapData, TraceState>,
}

impl Tracer {
    /// Loads the copy over the pinned maps. Attaches nothing yet.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub fn load(&self, filter: &TraceFilter) -> Result<(TracePrograms, TraceEvents)> {
        let (mut programs, array) = self.load_copy(filter, LogLevel::Off)?;
        let ebpf = &mut programs.ebpf;
        let events = TraceEvents {
            ring: take_map(ebpf, maps::TRACE_EVENTS)?.try_into()?,
            state: take_map(ebpf, maps::TRACE_STATE)?.try_into()?,
        };
        let programs = TracePrograms {
            programs,
            _array: array,
        };
        Ok((programs, events))
    }

    /// Loads the copy over the pinned maps for records of drops up to a level. Attaches nothing yet.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub fn load_log(&self, level: LogLevel) -> Result<(TracePrograms, DataPathLog)> {
        let (mut programs, array) = self.load_copy(&TraceFilter::nothing(), level)?;
        let log = EbpfLogger::init_with_logger(&mut programs.ebpf, Sink)?;
        let programs = TracePrograms {
            programs,
            _array: array,
        };
        Ok((programs, DataPathLog(log)))
    }

    fn load_copy(
        &self,
        filter: &TraceFilter,
        level: LogLevel,
    ) -> Result<(Programs, ProgramArray<MapData>)> {
        let object = Object::Trace(level);
        let mut programs = Programs::load(object, Some(&self.pins), &self.sizes, None)?;
        programs.first = TRACE_FIRST;
        let array = self.complete(&mut programs)?;
        let map = take_map(&mut programs.ebpf, maps::TRACE_FILTER)?;
        let mut filters: Array<MapData, TraceFilter> = map.try_into()?;
        filters.set(0, filter, 0)?;
        Ok((programs, array))
    }

    /// Loads the programs that the usual set does not have.
    fn complete(&self, programs: &mut Programs) -> Result<ProgramArray<MapData>> {
        let mut array: ProgramArray<MapData> =
            take_map(&mut programs.ebpf, maps::TRACE_PROGRAMS)?.try_into()?;
        let told = programs.load_program(TRACE_PROGRAMS[TRACE_EMIT as usize])?;
        array.set(TRACE_EMIT, told.fd()?, 0)?;
        array.set(TRACE_MAIN, &self.usual, 0)?;
        programs.load_program(TRACE_FIRST)?;
        Ok(array)
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

impl TracePrograms {
    /// Returns the entry program, to run it on test packets.
    ///
    /// # Errors
    ///
    /// Returns an error only for an object of another build.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.programs.main()
    }

    /// Returns the maps that only the copy has; it shares all others with the usual programs.
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
    /// Returns the next event, if there is one.
    pub fn next_event(&mut self) -> Option<Box<TraceEvent>> {
        loop {
            let item = self.ring.next()?;
            if item.len() < size_of::<TraceEvent>() {
                continue;
            }
            // SAFETY: the item has the size of an event, and any bytes are a valid one.
            let event = unsafe { ptr::read_unaligned(item.as_ptr().cast::<TraceEvent>()) };
            return Some(Box::new(event));
        }
    }

    /// Returns the number of events lost because the ring was full.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
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
