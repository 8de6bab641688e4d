//! Takeover of maps from another ABI version, newer or older, or with tables of another size. Maps
//! of equal layout are pinned for this daemon too and shared by the programs of both; entries of
//! the others are converted field by field.
//!
//! The programs of the other version run until everything is copied: interfaces get the gate
//! ([`Cutover`]), which sends packets to them. At the end it drops steered packets while the last
//! changes are copied, so that both versions have the same flows. Then one word sends packets to
//! the programs of this version, on all interfaces at once. If the daemon dies before that, the
//! previous programs continue, even if packets were on hold; if it dies after, those of this
//! version do.
//!
//! The record (`LAYOUT`) is pinned once all maps are complete, and names the programs that use
//! them. A link's program and the gate therefore tell which maps are in use.

mod convert;
mod cutover;
mod layout_record;
mod pin_dir;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    maps::{MapData, MapInfo, MapType},
    util::nr_cpus,
};
use convert::Conversion;
use layout_record::MapLayout;
use steer_common::abi::{MAIN, Slot, Track, maps};
use tracing::{info, warn};

use super::{
    batch, pinned_link,
    pins::{self, Pins},
    sizes::Sizes,
    specs::{SPECS, Spec},
};

pub(super) use self::{cutover::Cutover, layout_record::LayoutRecord, pin_dir::active_pins};

/// Number of attempts to copy the last changes within the hold time.
const TRIES: u32 = 5;
/// Factor from the duration of the last copy to the hold time, in addition to a fixed amount.
const TIMES: u32 = 3;
const MORE: Duration = Duration::from_millis(300);

/// A takeover. Dropped before programs of this version run, it leaves no trace.
pub(super) struct Upgrade {
    own: Pins,
    from: Option<Source>,
    finished: bool,
}

struct Source {
    pins: Pins,
    abi: u32,
    tables: Vec<Table>,
}

/// A map whose entries are converted.
struct Table {
    spec: &'static Spec,
    before: MapLayout,
    key: Conversion,
    value: Conversion,
    /// Copied entries of a flow table.
    copied: Copied,
}

/// Copied entries as hashes of their keys and values; full copies would double the memory of the
/// table.
#[derive(Default)]
struct Copied {
    hasher: RandomState,
    entries: HashMap<u64, u64>,
}

impl Upgrade {
    /// Decides which maps to take over, and pins those that can be shared.
    ///
    /// # Errors
    ///
    /// Returns an error if pinned maps cannot be read or converted.
    pub(super) fn prepare(own: &Pins, sizes: &Sizes) -> Result<Self> {
        let mut takeover = Self {
            own: own.clone(),
            from: None,
            finished: false,
        };
        let ours = LayoutRecord::read(own)?;
        if let Some((ours, _)) = &ours {
            compare(own, ours)?;
        }
        let unfinished = Cutover::is_pending(own)?;
        let runs_here = ours.is_some_and(|(_, programs)| !unfinished && runs(own, &programs));
        let Some((other, record)) = choose(own, runs_here, unfinished)? else {
            return Ok(takeover);
        };
        own.remove_maps()?;
        // From here on, new pins are removed again if anything fails.
        let source = takeover.from.insert(Source {
            pins: other,
            abi: record.abi,
            tables: Vec::new(),
        });
        source.tables = adopt_tables(own, &source.pins, &record, sizes)?;
        let converted: Vec<_> = source.tables.iter().map(|table| table.spec.name).collect();
        info!(
            from = record.abi,
            unfinished,
            converted = %converted.join(" "),
            "taking over maps of another version or size"
        );
        Ok(takeover)
    }

    /// Returns whether there is anything to take over.
    pub(super) fn is_needed(&self) -> bool {
        self.from.is_some()
    }

    /// Returns the pin of the previous programs.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be found.
    pub(super) fn old_programs(&self) -> Result<Option<PathBuf>> {
        let Some(source) = &self.from else {
            return Ok(None);
        };
        let running = running(&source.pins);
        let mut found = None;
        for (number, path) in source.pins.program_arrays() {
            let map = MapData::from_pin(&path)
                .with_context(|| format!("{}: cannot be opened", path.display()))?;
            // A lookup returns the id of the program.
            let main: Option<u32> = batch::get(map.fd().as_fd(), &MAIN)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            if let Some(main) = main {
                let key = (running.contains(&main), number);
                if found.as_ref().is_none_or(|(best, _)| *best < key) {
                    found = Some((key, path));
                }
            }
        }
        let (_, path) = found.with_context(|| {
            format!(
                "{}: no programs are pinned here that could continue meanwhile; nothing was \
                 changed. `steer detach` removes the remaining pins, and stops steering until the \
                 next start",
                source.pins.folder().display()
            )
        })?;
        Ok(Some(path))
    }

    /// Converts entries while the previous programs continue.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses, or an entry cannot be converted.
    pub(super) fn copy(&mut self) -> Result<()> {
        let Some(source) = &mut self.from else {
            return Ok(());
        };
        for table in &mut source.tables {
            let entries = table.convert(&source.pins, &self.own)?;
            info!(map = table.spec.name, entries, "converted");
        }
        Ok(())
    }

    /// Copies the last changes of flows, and sends packets to the programs of this version. All
    /// interfaces must have the gate.
    ///
    /// # Errors
    ///
    /// Returns an error if copying fails; the previous programs continue.
    pub(super) fn cut_over(&mut self, gate: &Cutover) -> Result<()> {
        let Some(source) = &mut self.from else {
            return Ok(());
        };
        let mut last = source.copy_flows(&self.own)?;
        for _ in 0..TRIES {
            let begun = Instant::now();
            gate.hold_packets(TIMES * last + MORE);
            let copied = source
                .copy_flows(&self.own)
                .inspect_err(|_| gate.revert())?;
            if gate.finish() {
                self.finished = true;
                info!(
                    from = source.abi,
                    held_s = begun.elapsed().as_secs_f64(),
                    "maps of another version or size taken over"
                );
                return Ok(());
            }
            warn!(
                took_s = copied.as_secs_f64(),
                "copying the last flows took longer than packets were held; trying again"
            );
            last = copied;
        }
        bail!(
            "maps of version {} cannot be taken over: copying the last flows took longer than \
             {TIMES} times the previous copy; the previous programs continue",
            source.abi
        );
    }

    /// Removes the previous maps. Programs of this version must be attached in place of the gate.
    pub(super) fn clean(&self) {
        for other in self.own.others().unwrap_or_default() {
            if let Err(error) = other.remove_version() {
                let error = format!("{error:#}");
                warn!(error, "pins of another version stay");
            }
        }
        let gate = self.own.map(maps::CUTOVER);
        if gate.exists() {
            pins::remove(&gate);
        }
    }
}

impl Source {
    /// Copies changes of flow tables since the last copy, and returns the time it took.
    fn copy_flows(&mut self, own: &Pins) -> Result<Duration> {
        let begun = Instant::now();
        for table in self.tables.iter_mut().filter(|table| table.has_flows()) {
            table.convert(&self.pins, own)?;
        }
        Ok(begun.elapsed())
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        if self.finished || self.from.is_none() {
            return;
        }
        if let Err(error) = self.own.remove_version() {
            let error = format!("{error:#}");
            warn!(error, "incomplete pins stay");
        }
    }
}

/// Returns the ids of programs behind links of any version.
fn running(pins: &Pins) -> Vec<u32> {
    let interfaces = pins.interfaces();
    let links = interfaces.iter().filter_map(|name| pins.found_link(name));
    links
        .filter_map(|link| pinned_link::program(&link).ok())
        .collect()
}

/// Returns whether a link of any version has one of these programs.
pub(super) fn runs(pins: &Pins, programs: &[u32]) -> bool {
    running(pins)
        .iter()
        .any(|program| programs.contains(program))
}

/// Returns the version to take over from: one that runs, or any if there are no maps of this
/// version. Maps without a record, beside others, belong to a daemon that died before they were
/// complete, and those of an unfinished takeover (`unfinished`) are a copy of the maps in use.
fn choose(own: &Pins, ours_runs: bool, unfinished: bool) -> Result<Option<(Pins, LayoutRecord)>> {
    let mut chosen = None;
    let mut silent = None;
    for pins in own.others()? {
        if Cutover::is_pending(&pins)? {
            continue;
        }
        match LayoutRecord::read(&pins)? {
            Some((record, programs)) => {
                let running = runs(&pins, &programs);
                if running || chosen.is_none() {
                    chosen = Some((pins, record, running));
                }
            }
            None if pins.has_maps() => silent = Some(pins),
            None => {}
        }
    }
    let begun = unfinished
        || !own.has_maps()
        || (!own.map(maps::LAYOUT).exists() && own.own_links().is_empty());
    if let Some(pins) =
        silent.filter(|pins| chosen.is_none() && begun || !pins.own_links().is_empty())
    {
        bail!(
            "{}: maps of a version of steer without a layout record are pinned here, and a \
             program is using them; nothing was changed. Run `steer detach` of that version first",
            pins.folder().display()
        );
    }
    let wanted = |running: bool| running || (begun && !ours_runs);
    Ok(chosen
        .filter(|(_, _, running)| wanted(*running))
        .map(|(pins, record, _)| (pins, record)))
}

/// Checks that a record of the same version describes the same maps; otherwise one of the two
/// builds was not given a version of its own.
fn compare(pins: &Pins, found: &LayoutRecord) -> Result<()> {
    for (name, wanted) in LayoutRecord::own().maps {
        if found.maps.get(&name).is_some_and(|found| *found != wanted) {
            bail!(
                "{}: this map has other fields than this program, although both have version {}; \
                 nothing was changed. `steer detach` removes it, and stops steering until the \
                 next start",
                pins.map(&name).display(),
                found.abi
            );
        }
    }
    Ok(())
}

/// Pins maps of equal layout, and returns the tables to convert.
fn adopt_tables(
    own: &Pins,
    other: &Pins,
    record: &LayoutRecord,
    sizes: &Sizes,
) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for spec in SPECS.iter().filter(|spec| spec.name != maps::PROGRAMS) {
        let path = other.map(spec.name);
        let Some(before) = record.maps.get(spec.name).filter(|_| path.exists()) else {
            continue;
        };
        let info = MapInfo::from_pin(&path)
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        if (info.key_size(), info.value_size()) != (before.key_size, before.value_size) {
            bail!(
                "{}: this map does not match its layout record; nothing was changed. `steer \
                 detach` removes it, and stops steering until the next start",
                path.display()
            );
        }
        let wanted = sizes.entries(spec.name).unwrap_or(spec.entries);
        let same_shape = spec.check(&info, wanted).is_ok();
        if same_shape && *before == MapLayout::of_spec(spec) {
            share(&path, own, spec)?;
            continue;
        }
        let kind = info.map_type().map_err(|error| anyhow!(error))?;
        let table = Table::new(spec, before.clone(), kind);
        tables.push(table.with_context(|| {
            format!(
                "{}: cannot be taken over; nothing was changed",
                path.display()
            )
        })?);
    }
    Ok(tables)
}

fn share(path: &std::path::Path, own: &Pins, spec: &Spec) -> Result<()> {
    let map =
        MapData::from_pin(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    let pin = own.map(spec.name);
    map.pin(&pin)
        .with_context(|| format!("{}: cannot be pinned", pin.display()))
}

impl Table {
    fn new(spec: &'static Spec, before: MapLayout, kind: MapType) -> Result<Self> {
        if is_per_cpu(kind) != is_per_cpu(spec.kind) {
            bail!("only one of the two versions has a value for each CPU in it");
        }
        let now = MapLayout::of_spec(spec);
        Ok(Self {
            spec,
            key: Conversion::between(&before.key, &now.key)?,
            value: Conversion::between(&before.value, &now.value)?,
            before,
            copied: Copied::default(),
        })
    }

    /// Returns whether packets create entries in it.
    fn has_flows(&self) -> bool {
        matches!(self.spec.kind, MapType::Hash | MapType::LruHash)
    }

    /// Converts entries; in flow tables only changes since the last time, including removals.
    fn convert(&mut self, other: &Pins, own: &Pins) -> Result<usize> {
        let open = |pins: &Pins| {
            let path = pins.map(self.spec.name);
            MapData::from_pin(&path)
                .with_context(|| format!("{}: cannot be opened", path.display()))
        };
        let (from, to) = (open(other)?, open(own)?);
        let (from, to) = (from.fd().as_fd(), to.fd().as_fd());
        let cpus = match self.spec.kind {
            kind if is_per_cpu(kind) => nr_cpus().map_err(|(_, error)| error)?,
            _ => 1,
        };
        // Values of per-CPU maps start at multiples of eight bytes.
        let stride = |size: u32| match cpus {
            1 if !is_per_cpu(self.spec.kind) => size as usize,
            _ => (size as usize).next_multiple_of(8),
        };
        let (old_value, new_value) = (stride(self.before.value_size), stride(self.spec.value));
        let old_lengths = [self.before.key_size as usize, old_value * cpus];
        let lengths = [self.spec.key as usize, new_value * cpus];
        let has_flows = self.has_flows();
        let hasher = &self.copied.hasher;
        let copied = &self.copied.entries;
        let mut found = HashMap::with_capacity(copied.len());
        let mut make =
            |[old_key, old]: [&[u8]; 2], [key, new]: [&mut [u8]; 2]| -> io::Result<bool> {
                self.key.apply(old_key, key).map_err(io::Error::other)?;
                for (old, new) in old.chunks(old_value).zip(new.chunks_mut(new_value)) {
                    self.value.apply(old, new).map_err(io::Error::other)?;
                }
                if self.spec.name == maps::SLOTS {
                    reset_slot_marks(new);
                }
                if !has_flows {
                    return Ok(true);
                }
                let (key, value) = (hasher.hash_one(&*key), hasher.hash_one(&*new));
                found.insert(key, value);
                Ok(copied.get(&key) != Some(&value))
            };
        let context = || format!("map {}: cannot be converted", self.spec.name);
        let entries = match batch::transfer([from, to], old_lengths, lengths, &mut make) {
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => bail!(
                "map {}: it has more flows than the new table can hold; increase the size in \
                 [limits], or wait until there are fewer. The previous programs continue",
                self.spec.name
            ),
            done => done.with_context(context)?,
        };
        if copied.keys().any(|key| !found.contains_key(key)) {
            let mut gone = Vec::new();
            let mut look = |[key, _]: [&[u8]; 2], _: [&mut [u8]; 2]| {
                if !found.contains_key(&hasher.hash_one(key)) {
                    gone.push(key.to_owned());
                }
                Ok(false)
            };
            batch::transfer([to, to], lengths, lengths, &mut look).with_context(context)?;
            for key in gone {
                batch::remove_bytes(to, &key).with_context(context)?;
            }
        }
        self.copied.entries = found;
        Ok(entries)
    }
}

/// Marks a slot as possibly in use. The previous programs write to their slots until the end, so
/// marks that they may still set are assumed to be set. The daemon clears them later.
fn reset_slot_marks(slot: &mut [u8]) {
    slot[std::mem::offset_of!(Slot, track)] = Track::Some as u8;
    slot[std::mem::offset_of!(Slot, seen)] = 1;
}

const fn is_per_cpu(kind: MapType) -> bool {
    matches!(
        kind,
        MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash
    )
}
