//! Layout record: a map beside the pinned maps that lets a daemon of another version read them.
//! Contains the layout of each map and the ids of the programs that use them.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, MapType};
use serde::{Deserialize, Serialize};
use steer_common::abi::{ABI_VERSION, maps};

use super::{
    super::{
        pins::Pins,
        specs::{SPECS, Spec},
    },
    convert::{Column, columns},
};

/// Format version of the record. Other versions are refused.
const FORMAT: u32 = 1;
/// Size of an element of the map in bytes.
const CHUNK: usize = 1024;
/// Number of elements. The first one contains the length of the text and the program ids, the
/// others the text.
const CHUNKS: u32 = 64;
/// Number of most recently loaded programs to remember.
const PROGRAMS: usize = CHUNK / 4 - 1;

type Chunk = [u8; CHUNK];

/// Layouts of the maps of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayoutRecord {
    format: u32,
    /// ABI version.
    pub(crate) abi: u32,
    /// Maps by name.
    pub(crate) maps: BTreeMap<String, MapLayout>,
}

/// Layout of a map's keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapLayout {
    /// Size of a key.
    pub(crate) key_size: u32,
    /// Size of a value, per CPU for per-CPU maps.
    pub(crate) value_size: u32,
    /// Fields of keys.
    pub(crate) key: Vec<Column>,
    /// Fields of values.
    pub(crate) value: Vec<Column>,
}

impl MapLayout {
    /// Returns the layout of a map of this version.
    pub(crate) fn of_spec(spec: &Spec) -> Self {
        let (key, value) = (spec.key as usize, spec.value as usize);
        let mut keys = Vec::new();
        let mut prefix = 0;
        if spec.kind == MapType::LpmTrie {
            prefix = 4;
            keys.push(Column {
                name: "prefix_len".to_owned(),
                offset: 0,
                size: prefix,
            });
        }
        keys.extend(columns(spec.key_fields, prefix, key - prefix));
        Self {
            key_size: spec.key,
            value_size: spec.value,
            key: keys,
            value: columns(spec.value_fields, 0, value),
        }
    }
}

impl LayoutRecord {
    /// Returns the record of this version.
    pub(crate) fn own() -> Self {
        let layout = |spec: &Spec| (spec.name.to_owned(), MapLayout::of_spec(spec));
        Self {
            format: FORMAT,
            abi: ABI_VERSION,
            maps: SPECS.iter().map(layout).collect(),
        }
    }

    /// Reads the record beside pinned maps, with the ids of their programs; `None` if there is
    /// none.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub(crate) fn read(pins: &Pins) -> Result<Option<(Self, Vec<u32>)>> {
        let path = pins.map(maps::LAYOUT);
        if !path.exists() {
            return Ok(None);
        }
        let read = || -> Result<_> {
            let map = open(&path)?;
            let head = map.get(&0, 0)?;
            let (length, programs) = read_head(&head);
            ensure!(length <= (CHUNKS as usize - 1) * CHUNK, "it is too long");
            let mut text = Vec::new();
            for index in 1..CHUNKS {
                if text.len() < length {
                    text.extend(map.get(&index, 0)?);
                }
            }
            let record: Self = serde_json::from_slice(&text[..length])?;
            ensure!(
                record.format == FORMAT,
                "it has another format, {}",
                record.format
            );
            Ok(Some((record, programs)))
        };
        read().with_context(|| {
            format!(
                "{}: the layout record of these maps cannot be read",
                path.display()
            )
        })
    }

    /// Writes the record of this version with additional program ids. The first call marks the maps
    /// as complete.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub(crate) fn write(pins: &Pins, more: &[u32]) -> Result<()> {
        let path = pins.map(maps::LAYOUT);
        let found = Self::read(pins)?;
        let mut programs = found.as_ref().map_or(Vec::new(), |found| found.1.clone());
        programs.extend(more);
        let text = serde_json::to_vec(&Self::own())?;
        let pinned = path.exists();
        let mut map = if pinned {
            open(&path)?
        } else {
            Array::create(CHUNKS, 0).context("the kernel refuses a map for the layout record")?
        };
        for (index, part) in (1..).zip(text.chunks(CHUNK)) {
            let mut chunk = [0; CHUNK];
            chunk[..part.len()].copy_from_slice(part);
            map.set(index, chunk, 0)?;
        }
        map.set(0, head(text.len(), &programs), 0)?;
        if !pinned {
            map.pin(&path)
                .with_context(|| format!("{}: cannot be pinned", path.display()))?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<Array<MapData, Chunk>> {
    Ok(Array::try_from(Map::Array(MapData::from_pin(path)?))?)
}

fn head(length: usize, programs: &[u32]) -> Chunk {
    let last = &programs[programs.len().saturating_sub(PROGRAMS)..];
    let mut chunk = [0; CHUNK];
    let words = std::iter::once(length as u32).chain(last.iter().copied());
    for (place, word) in chunk.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    chunk
}

fn read_head(chunk: &Chunk) -> (usize, Vec<u32>) {
    let mut words = chunk
        .chunks_exact(4)
        .filter_map(|word| word.first_chunk().map(|word| u32::from_le_bytes(*word)));
    let length = words.next().unwrap_or_default() as usize;
    (length, words.take_while(|program| *program != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_fits_with_room_to_grow() {
        let text = serde_json::to_vec(&LayoutRecord::own()).unwrap();
        assert!(text.len() < CHUNKS as usize * CHUNK / 2, "{}", text.len());
        assert_eq!(
            serde_json::from_slice::<LayoutRecord>(&text).unwrap(),
            LayoutRecord::own()
        );
    }

    #[test]
    fn the_last_programs_are_remembered() {
        let programs: Vec<u32> = (1..=PROGRAMS as u32 + 10).collect();
        let (length, found) = read_head(&head(4711, &programs));
        assert_eq!(length, 4711);
        assert_eq!(found, programs[10..]);
        assert_eq!(read_head(&head(1, &[])), (1, Vec::new()));
    }

    /// Checks that each field of each map is in the record at its offset, and that no two overlap.
    #[test]
    fn fields_do_not_overlap() {
        for (name, layout) in LayoutRecord::own().maps {
            for (columns, size) in [
                (layout.key, layout.key_size),
                (layout.value, layout.value_size),
            ] {
                let mut end = 0;
                let mut sorted = columns;
                sorted.sort_by_key(|column| column.offset);
                for column in sorted {
                    assert!(column.offset >= end, "{name} {column:?}");
                    end = column.offset + column.size;
                }
                assert!(end <= size as usize, "{name}");
            }
        }
    }
}
