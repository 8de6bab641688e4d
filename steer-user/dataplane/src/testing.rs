//! The maps as bytes, for tests that use loaded programs again: the verifier takes seconds for them.

use std::{collections::BTreeMap, io, os::fd::BorrowedFd};

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};

use super::{Xdp, batch, mapped::Mapped, specs::MAPPED};

/// `BPF_F_RDONLY_PROG`, which constants of the programs have.
const READ_ONLY: u32 = 1 << 7;

/// Entries of each map by their keys. Elements of arrays that are zero are left out.
pub type Dump = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Makes all maps what they are after a load: hash maps empty, and arrays zero.
///
/// # Errors
/// If the kernel refuses.
pub fn reset(xdp: &mut Xdp) -> Result<()> {
    for (name, fd) in xdp.attacher.map_fds() {
        Raw::new(fd)
            .and_then(|map| map.reset())
            .with_context(|| format!("map {name}: cannot be reset"))?;
    }
    xdp.maps.forget_copies();
    Ok(())
}

/// Writes something into each map but those of constants and programs.
///
/// # Errors
/// If the kernel refuses.
pub fn fill(xdp: &mut Xdp) -> Result<()> {
    for (name, fd) in xdp.attacher.map_fds() {
        Raw::new(fd)
            .and_then(|map| map.fill())
            .with_context(|| format!("map {name}: cannot be filled"))?;
    }
    Ok(())
}

/// Reads all maps but those of constants and programs.
///
/// # Errors
/// If the kernel does not answer.
pub fn dump(xdp: &Xdp) -> Result<Dump> {
    let read = |(name, fd)| {
        let entries = Raw::new(fd)
            .and_then(|map| map.read())
            .with_context(|| format!("map {name}: cannot be read"))?;
        Ok((String::from(name), entries))
    };
    xdp.attacher.map_fds().map(read).collect()
}

/// A map of any kind.
struct Raw<'m> {
    fd: BorrowedFd<'m>,
    kind: MapType,
    flags: u32,
    /// Bytes of a key.
    key: usize,
    /// Bytes of a value, as the system calls have them: of all CPUs.
    value: usize,
    entries: u32,
}

impl<'m> Raw<'m> {
    fn new(fd: BorrowedFd<'m>) -> Result<Self> {
        let data = MapData::from_fd(fd.try_clone_to_owned()?)?;
        let info = data.info()?;
        let kind = info.map_type()?;
        let size = info.value_size() as usize;
        let per_cpu = matches!(kind, MapType::PerCpuArray | MapType::PerCpuHash);
        let value = if per_cpu {
            size.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?
        } else {
            size
        };
        Ok(Self {
            fd,
            kind,
            flags: info.map_flags(),
            key: info.key_size() as usize,
            value,
            entries: info.max_entries(),
        })
    }

    fn is_array(&self) -> bool {
        matches!(self.kind, MapType::Array | MapType::PerCpuArray)
    }

    /// Returns whether packets and tests change nothing in it.
    fn is_constant(&self) -> bool {
        self.kind == MapType::ProgramArray || (self.is_array() && self.flags & READ_ONLY != 0)
    }

    fn reset(&self) -> Result<()> {
        if self.is_constant() {
            return Ok(());
        }
        if !self.is_array() {
            for key in self.keys()? {
                batch::remove_bytes(self.fd, &key)?;
            }
            return Ok(());
        }
        if self.flags & MAPPED != 0 {
            self.words()?.clear();
            return Ok(());
        }
        let zeros = vec![0; self.value];
        for key in self.used()?.into_keys() {
            batch::write_bytes(self.fd, &key, &zeros)?;
        }
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        if self.is_constant() {
            return Ok(());
        }
        let mut value = vec![0xff; self.value];
        if self.kind == MapType::DevMapHash {
            // The loopback device, without a program.
            value.fill(0);
            value[..4].copy_from_slice(&1_u32.to_ne_bytes());
        }
        let mut keys = vec![vec![0; self.key]];
        if self.is_array() {
            keys.push((self.entries - 1).to_ne_bytes().to_vec());
        }
        for key in keys {
            batch::write_bytes(self.fd, &key, &value)?;
        }
        Ok(())
    }

    fn read(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        if self.is_constant() {
            return Ok(BTreeMap::new());
        }
        if self.is_array() {
            return self.used();
        }
        let mut entries = BTreeMap::new();
        for key in self.keys()? {
            let mut value = vec![0; self.value];
            if batch::read_bytes(self.fd, &key, &mut value)? {
                entries.insert(key, value);
            }
        }
        Ok(entries)
    }

    /// Elements of an array that are not zero.
    fn used(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut used = BTreeMap::new();
        let mut insert = |index: u32, value: &[u8]| {
            if value.iter().any(|byte| *byte != 0) {
                used.insert(index.to_ne_bytes().to_vec(), value.to_vec());
            }
        };
        if self.flags & MAPPED != 0 {
            let stride = self.value.next_multiple_of(8);
            let words = self.words()?;
            let bytes = words.bytes();
            for (index, value) in (0..).zip(bytes.chunks(stride)) {
                insert(index, value);
            }
        } else {
            let all = batch::all_of_array(self.fd, self.entries, self.value)?;
            for (index, value) in (0..).zip(all.chunks(self.value)) {
                insert(index, value);
            }
        }
        Ok(used)
    }

    /// The memory of an array that can be mapped.
    fn words(&self) -> Result<Mapped<u64>> {
        let words = self.value.div_ceil(8) * self.entries as usize;
        Mapped::new(self.fd, u32::try_from(words)?)
    }

    fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key];
            if !batch::next_key(self.fd, keys.last().map(Vec::as_slice), &mut next)? {
                return Ok(keys);
            }
            keys.push(next);
        }
    }
}
