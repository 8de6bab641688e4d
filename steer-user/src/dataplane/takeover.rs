//! Maps of another version of the ABI, newer or older: those that look alike are pinned for this
//! version too, and used by the programs of both; entries of others are converted, field by field.
//!
//! Until programs of this version run on an interface nothing of the other one is changed, so whatever
//! fails before leaves it as it was. The record (`LAYOUT`) is pinned once all maps are complete, and it
//! names the programs that use them; a link's program thus tells whose maps are in use, whenever a
//! daemon dies.

use std::{io, os::fd::AsFd as _};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    maps::{MapData, MapInfo, MapType},
    util::nr_cpus,
};
use steer_common::abi::{Slot, Track, maps};
use tracing::{info, warn};

use super::{
    batch,
    convert::Conversion,
    pinned_link,
    pins::Pins,
    record::{MapLayout, Record},
    sizes::Sizes,
    specs::{SPECS, Spec},
    sweep::now_ms,
};

/// What is taken over. Dropped before programs of this version run, it leaves no trace.
pub(super) struct Takeover {
    own: Pins,
    from: Option<Source>,
    /// When entries were copied; `None` if another daemon did it.
    copied: Option<u32>,
    finished: bool,
}

struct Source {
    pins: Pins,
    abi: u32,
    tables: Vec<Table>,
    /// A daemon of this version has begun, and did not live to its end.
    continued: bool,
}

/// A map whose entries are converted.
struct Table {
    spec: &'static Spec,
    before: MapLayout,
    key: Conversion,
    value: Conversion,
}

impl Takeover {
    /// Finds out what is to be taken over, and pins maps that can be used as they are.
    ///
    /// # Errors
    /// If what is pinned cannot be understood or converted.
    pub(super) fn begin(own: &Pins, sizes: &Sizes) -> Result<Self> {
        let mut takeover = Self {
            own: own.clone(),
            from: None,
            copied: None,
            finished: false,
        };
        let ours = Record::read(own)?;
        if let Some((ours, _)) = &ours {
            compare(own, ours)?;
        }
        let continued = ours.is_some_and(|(_, programs)| runs(own, &programs));
        let Some((other, record)) = choose(own, continued)? else {
            return Ok(takeover);
        };
        if !continued {
            own.remove_maps()?;
        }
        // From here on what is pinned is taken away again if anything fails.
        let source = takeover.from.insert(Source {
            pins: other,
            abi: record.abi,
            tables: Vec::new(),
            continued,
        });
        source.tables = take(own, &source.pins, &record, sizes, continued)?;
        info!(
            from = record.abi,
            continued,
            converted = ?source.tables.iter().map(|table| table.spec.name).collect::<Vec<_>>(),
            "taking over the maps of another version"
        );
        Ok(takeover)
    }

    /// Whether there is anything.
    pub(super) fn is_one(&self) -> bool {
        self.from.is_some()
    }

    /// Converts entries, while the programs of before go on.
    ///
    /// # Errors
    /// If the kernel refuses, or an entry cannot be converted.
    pub(super) fn copy(&mut self) -> Result<()> {
        let Some(source) = self.from.as_ref().filter(|source| !source.continued) else {
            return Ok(());
        };
        let begun = now_ms();
        for table in &source.tables {
            let entries = table.convert(&source.pins, &self.own, None)?;
            info!(map = table.spec.name, entries, "converted");
        }
        self.copied = Some(begun);
        Ok(())
    }

    /// Takes over what became of flows meanwhile, and removes the pins of before. Their programs
    /// must be gone.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        // Others that nobody runs go as well.
        let others = self.own.others().unwrap_or_default();
        if let Some(source) = self.from.take() {
            for table in source.tables.iter().filter(|table| table.has_flows()) {
                let since = self.copied.map_or(Newer::All, Newer::Since);
                if let Err(error) = table.convert(&source.pins, &self.own, Some(since)) {
                    let error = format!("{error:#}");
                    let map = table.spec.name;
                    warn!(map, error, "the last flows were not converted");
                }
            }
            info!(from = source.abi, "maps of another version taken over");
        }
        for other in others {
            if let Err(error) = other.remove_version() {
                let error = format!("{error:#}");
                warn!(error, "pins of another version stay");
            }
        }
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        if self.finished || self.from.is_none() {
            return;
        }
        // What runs already is in use.
        let ours = Record::read(&self.own).ok().flatten();
        if ours.is_some_and(|(_, programs)| runs(&self.own, &programs)) {
            return;
        }
        if let Err(error) = self.own.remove_version() {
            let error = format!("{error:#}");
            warn!(error, "pins that were begun stay");
        }
    }
}

/// Whether a link of any version has one of these programs.
fn runs(pins: &Pins, programs: &[u32]) -> bool {
    let interfaces = pins.interfaces();
    let links = interfaces.iter().filter_map(|name| pins.found_link(name));
    let mut running = links.filter_map(|link| pinned_link::program(&link).ok());
    running.any(|program| programs.contains(&program))
}

/// The version to take over from: one that runs, or where there is nothing of our own, any. Maps without
/// a record, beside others, are those of a daemon that died before it had all of them.
fn choose(own: &Pins, ours_runs: bool) -> Result<Option<(Pins, Record)>> {
    let mut chosen = None;
    let mut silent = None;
    for pins in own.others()? {
        match Record::read(&pins)? {
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
    let begun = !own.has_maps() || (!own.map(maps::LAYOUT).exists() && own.own_links().is_empty());
    if let Some(pins) =
        silent.filter(|pins| chosen.is_none() && begun || !pins.own_links().is_empty())
    {
        bail!(
            "{}: maps of a version of steer that does not say what they look like are pinned here, and a \
             program is using them; they were left as they are. Run `steer detach` of that version first",
            pins.folder().display()
        );
    }
    let wanted = |running: bool| running || (begun && !ours_runs);
    Ok(chosen
        .filter(|(_, _, running)| wanted(*running))
        .map(|(pins, record, _)| (pins, record)))
}

/// Two daemons of one version have the same maps, or one of them was not given its number.
fn compare(pins: &Pins, found: &Record) -> Result<()> {
    for (name, wanted) in Record::own().maps {
        if found.maps.get(&name).is_some_and(|found| *found != wanted) {
            bail!(
                "{}: this map has other fields than this program, which says that it is of the same \
                 version, {}; everything was left as it was. `steer detach` removes it, and stops \
                 steering until the next start",
                pins.map(&name).display(),
                found.abi
            );
        }
    }
    Ok(())
}

/// Pins what looks alike, and says what has to be converted.
fn take(
    own: &Pins,
    other: &Pins,
    record: &Record,
    sizes: &Sizes,
    continued: bool,
) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for spec in SPECS.iter().filter(|spec| spec.name != maps::PROGRAMS) {
        let path = other.map(spec.name);
        let Some(before) = record.maps.get(spec.name).filter(|_| path.exists()) else {
            continue;
        };
        let info = MapInfo::from_pin(&path)
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        let allowed = sizes.entries(spec.name).map(|_| info.max_entries());
        let same_shape = spec.check(&info, allowed.unwrap_or(spec.entries)).is_ok();
        if same_shape && *before == MapLayout::of(spec) {
            if !continued {
                share(&path, own, spec)?;
            }
            continue;
        }
        let kind = info.map_type().map_err(|error| anyhow!(error))?;
        let table = Table::new(spec, before.clone(), kind);
        tables.push(table.with_context(|| {
            format!(
                "{}: cannot be taken over; everything was left as it was",
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

/// Which entries are converted once more, if they were used later than what the new map has of them.
#[derive(Clone, Copy)]
enum Newer {
    /// All.
    All,
    /// Those that were used since.
    Since(u32),
}

impl Table {
    fn new(spec: &'static Spec, before: MapLayout, kind: MapType) -> Result<Self> {
        if is_per_cpu(kind) != is_per_cpu(spec.kind) {
            bail!("it was a {kind:?} and is a {:?}", spec.kind);
        }
        let now = MapLayout::of(spec);
        Ok(Self {
            spec,
            key: Conversion::between(&before.key, &now.key)?,
            value: Conversion::between(&before.value, &now.value)?,
            before,
        })
    }

    /// Whether packets make entries of it.
    fn has_flows(&self) -> bool {
        matches!(self.spec.kind, MapType::Hash | MapType::LruHash)
    }

    fn convert(&self, other: &Pins, own: &Pins, newer: Option<Newer>) -> Result<usize> {
        let open = |pins: &Pins| {
            let path = pins.map(self.spec.name);
            MapData::from_pin(&path)
                .with_context(|| format!("{}: cannot be opened", path.display()))
        };
        let (from, to) = (open(other)?, open(own)?);
        let cpus = match self.spec.kind {
            kind if is_per_cpu(kind) => nr_cpus().map_err(|(_, error)| error)?,
            _ => 1,
        };
        // Values of maps per CPU begin at multiples of eight bytes.
        let stride = |size: u32| match cpus {
            1 if !is_per_cpu(self.spec.kind) => size as usize,
            _ => (size as usize).next_multiple_of(8),
        };
        let (old_value, new_value) = (stride(self.before.value_size), stride(self.spec.value));
        let mut present = vec![0; new_value * cpus];
        let mut make =
            |[old_key, old]: [&[u8]; 2], [key, new]: [&mut [u8]; 2]| -> io::Result<bool> {
                self.key.apply(old_key, key).map_err(io::Error::other)?;
                for (old, new) in old.chunks(old_value).zip(new.chunks_mut(new_value)) {
                    self.value.apply(old, new).map_err(io::Error::other)?;
                }
                if self.spec.name == maps::SLOTS {
                    make_safe(new);
                }
                let Some(newer) = newer else { return Ok(true) };
                let used = self.value.last_used(old, new).map(|[_, used]| used);
                if let (Newer::Since(since), Some(used)) = (newer, used)
                    && is_before(used, since)
                {
                    return Ok(false);
                }
                if !batch::look_up_bytes(to.fd().as_fd(), key, &mut present)? {
                    return Ok(true);
                }
                let found = self.value.last_used(old, &present);
                Ok(found.is_some_and(|[used, found]| is_before(found, used)))
            };
        batch::transfer(
            [from.fd().as_fd(), to.fd().as_fd()],
            [self.before.key_size as usize, old_value * cpus],
            [self.spec.key as usize, new_value * cpus],
            &mut make,
        )
        .with_context(|| format!("map {}: cannot be converted", self.spec.name))
    }
}

/// Whether one moment is before another, of the clock in maps.
const fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < u32::MAX / 2
}

/// Programs of before write to their slots until the end: what they may note meanwhile is taken to be
/// noted. The daemon finds out what is true.
fn make_safe(slot: &mut [u8]) {
    slot[std::mem::offset_of!(Slot, track)] = Track::Some as u8;
    slot[std::mem::offset_of!(Slot, seen)] = 1;
}

const fn is_per_cpu(kind: MapType) -> bool {
    matches!(
        kind,
        MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash
    )
}
