//! Memory of maps as counted by the kernel.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use serde::{Deserialize, Serialize};

/// Memory of one map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MapMemory {
    /// Name.
    pub name: String,
    /// Map type.
    pub kind: String,
    /// Maximum number of entries.
    pub entries: u32,
    /// Locked bytes.
    pub bytes: u64,
}

/// Maps of a program, kept open to query their memory.
pub(crate) struct MemoryMeters(Vec<(MapMemory, OwnedFd)>);

impl MemoryMeters {
    /// Opens the maps of a program before they are moved out of it.
    pub(crate) fn open(ebpf: &Ebpf) -> Result<Self> {
        let mut meters = Vec::new();
        for (name, map) in ebpf.maps() {
            let data = data(map).with_context(|| format!("map {name}: of an unknown kind"))?;
            let info = data.info()?;
            let kind = info.map_type()?;
            let memory = MapMemory {
                name: name.to_owned(),
                kind: format!("{kind:?}"),
                entries: info.max_entries(),
                bytes: 0,
            };
            meters.push((memory, data.fd().as_fd().try_clone_to_owned()?));
        }
        meters.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        Ok(Self(meters))
    }

    /// Returns the descriptor of a map.
    ///
    /// # Errors
    ///
    /// Returns an error if the program has no such map.
    pub(crate) fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let found = self.0.iter().find(|(memory, _)| memory.name == name);
        let (_, fd) = found.with_context(|| format!("the object has no map {name}"))?;
        Ok(fd.as_fd())
    }

    /// Names and descriptors of all maps.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.0
            .iter()
            .map(|(memory, fd)| (&*memory.name, fd.as_fd()))
    }

    /// Queries all maps in order of their names.
    pub(crate) fn read(&self) -> Result<Vec<MapMemory>> {
        let read = |(memory, fd): &(MapMemory, OwnedFd)| {
            Ok(MapMemory {
                bytes: locked(fd).with_context(|| format!("map {}", memory.name))?,
                ..memory.clone()
            })
        };
        self.0.iter().map(read).collect()
    }
}

/// Returns the locked bytes of a map from `/proc`.
fn locked(map: &OwnedFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let value = value.with_context(|| format!("{path}: no line memlock"))?;
    Ok(value.trim().parse()?)
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::LpmTrie(data)
        | Map::ProgramArray(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
