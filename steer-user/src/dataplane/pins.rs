//! Where programs and maps stay while no daemon runs, and what may be taken up again.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{MapInfo, MapType};
use steer_common::{
    abi::{
        self, ABI_VERSION, Address, Admission, CidKey, ClassKey, ClassMatch, Config, DscpTable,
        FlowEntry, FlowKey, FragmentEntry, FragmentKey, Measured, Member, MemberCounters,
        NatForward, NatReverse, Opening, Refusals, Service, Signals, Slot, SourceKey, SourceLimit,
        maps,
    },
    verdict::DropReason,
};

use super::sizes::Sizes;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// `BPF_F_MMAPABLE`.
pub(super) const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, which tries have to have, and which takes memory for entries that there are.
pub(super) const NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY_PROG`, which the kernel gives every devmap.
const READ_ONLY: u32 = 1 << 7;

/// What a map has to be like.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key: u32,
    pub(super) value: u32,
    /// The usual number, if [`Sizes`] says no other.
    pub(super) entries: u32,
    pub(super) flags: u32,
}

const fn array(name: &'static str, value: usize, entries: u32) -> Spec {
    Spec {
        name,
        kind: MapType::Array,
        key: 4,
        value: value as u32,
        entries,
        flags: MAPPED,
    }
}

const fn lru(name: &'static str, value: usize, entries: u32) -> Spec {
    Spec {
        name,
        kind: MapType::LruHash,
        key: size_of::<FlowKey>() as u32,
        value: value as u32,
        entries,
        flags: 0,
    }
}

const fn per_cpu(name: &'static str, value: usize, entries: u32) -> Spec {
    Spec {
        name,
        kind: MapType::PerCpuArray,
        key: 4,
        value: value as u32,
        entries,
        flags: 0,
    }
}

/// The maps that outlive the daemon.
pub(super) const SPECS: [Spec; 27] = [
    array(maps::CONFIG, size_of::<Config>(), 1),
    array(
        maps::SERVICES,
        size_of::<Service>(),
        2 * (abi::SERVICES + abi::CLASSES),
    ),
    Spec {
        name: maps::CLASSES,
        kind: MapType::LpmTrie,
        key: 4 + size_of::<ClassKey>() as u32,
        value: size_of::<ClassMatch>() as u32,
        entries: abi::CLASS_PREFIXES,
        flags: NO_PREALLOC,
    },
    array(
        maps::CLASS_DSCP,
        size_of::<DscpTable>(),
        2 * abi::DSCP_TABLES,
    ),
    array(
        maps::DISPLACEMENTS,
        size_of::<u32>(),
        2 * abi::DISPLACEMENTS,
    ),
    array(maps::SLOTS, size_of::<Slot>(), abi::SLOTS),
    array(maps::MEMBERS, size_of::<Member>(), abi::MEMBERS),
    array(
        maps::NAT_SOURCES,
        size_of::<Address>(),
        2 * abi::NAT_ADDRESSES,
    ),
    lru(maps::FLOWS, size_of::<FlowEntry>(), abi::FLOWS),
    lru(maps::NEW_FLOWS, size_of::<FlowEntry>(), abi::NEW_FLOWS),
    Spec {
        kind: MapType::Hash,
        ..lru(maps::NAT_FORWARD, size_of::<NatForward>(), abi::NAT_FLOWS)
    },
    Spec {
        kind: MapType::Hash,
        ..lru(maps::NAT_REVERSE, size_of::<NatReverse>(), abi::NAT_FLOWS)
    },
    Spec {
        flags: 0,
        ..array(maps::OPENINGS, size_of::<Opening>(), abi::OPENINGS)
    },
    Spec {
        kind: MapType::PerCpuHash,
        flags: NO_PREALLOC,
        ..per_cpu(maps::MEASURED, size_of::<Measured>(), abi::MEMBERS)
    },
    array(maps::SIGNALS, size_of::<Signals>(), abi::MEMBERS),
    Spec {
        name: maps::FRAGMENTS,
        kind: MapType::LruHash,
        key: size_of::<FragmentKey>() as u32,
        value: size_of::<FragmentEntry>() as u32,
        entries: abi::FRAGMENTS,
        flags: 0,
    },
    Spec {
        name: maps::PROGRAMS,
        kind: MapType::ProgramArray,
        key: 4,
        value: 4,
        entries: abi::PROGRAMS.len() as u32,
        flags: 0,
    },
    Spec {
        name: maps::DENIED,
        kind: MapType::LpmTrie,
        key: 4 + size_of::<Address>() as u32,
        value: 4,
        entries: abi::DENIED,
        flags: NO_PREALLOC,
    },
    array(maps::ADMISSION, size_of::<Admission>(), abi::SERVICES),
    array(maps::IN_FLIGHT, 8, abi::MEMBERS),
    array(maps::LIMITS, size_of::<SourceLimit>(), 2 * abi::LIMITS),
    Spec {
        name: maps::CIDS,
        kind: MapType::Hash,
        key: size_of::<CidKey>() as u32,
        value: 4,
        entries: abi::CIDS,
        flags: NO_PREALLOC,
    },
    Spec {
        name: maps::SOURCES,
        kind: MapType::LruHash,
        key: size_of::<SourceKey>() as u32,
        value: 8,
        entries: abi::SOURCES,
        flags: 0,
    },
    per_cpu(maps::REFUSED, size_of::<Refusals>(), abi::SERVICES),
    per_cpu(
        maps::MEMBER_COUNTS,
        size_of::<MemberCounters>(),
        abi::MEMBERS,
    ),
    per_cpu(maps::DROP_COUNTS, size_of::<u64>(), DropReason::COUNT),
    Spec {
        name: maps::PORTS,
        kind: MapType::DevMapHash,
        key: 4,
        value: 8,
        entries: abi::PORTS,
        flags: READ_ONLY,
    },
];

/// The folders of pins below a mounted bpffs.
#[derive(Clone, Debug)]
pub struct Pins {
    steer: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// The pins below `bpffs`, or a folder in it.
    pub fn new(bpffs: &Path) -> Self {
        let steer = bpffs.join("steer");
        let version = steer.join(format!("v{ABI_VERSION}"));
        Self { steer, version }
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// If this is not on a bpffs, or another version of the maps is pinned.
    pub(super) fn prepare(&self) -> Result<()> {
        let bpffs = self.steer.parent().unwrap_or(Path::new("/"));
        if let Some(other) = self.other_version()? {
            bail!(
                "{}: maps of another version of steer are pinned here, and a program is using them; \
                 they were left as they are. Run `steer detach` of that version first",
                other.display()
            );
        }
        // Where the service manager hides others' pins, our folder alone is a BPF file system.
        let is_ours = file_system(&self.steer).is_ok_and(|magic| magic == BPF_FS_MAGIC);
        if !is_ours {
            fs::create_dir_all(bpffs).with_context(|| format!("{}", bpffs.display()))?;
        }
        if !is_ours && file_system(bpffs)? != BPF_FS_MAGIC {
            bail!(
                "{}: not a BPF file system; mount one with `mount -t bpf bpf {}` or set `bpffs`",
                bpffs.display(),
                bpffs.display()
            );
        }
        for folder in [self.maps(), self.links()] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("{}: cannot make the folder of pins", folder.display()))?;
        }
        Ok(())
    }

    fn other_version(&self) -> Result<Option<PathBuf>> {
        let entries = match fs::read_dir(&self.steer) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("{}", self.steer.display()));
            }
        };
        for entry in entries {
            let path = entry?.path();
            if path != self.version {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version.join("links")
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Arrays of programs that are pinned, by their number. Each load of the programs has its own, so
    /// that the parts of one never meet those of another.
    pub(super) fn program_arrays(&self) -> Vec<(u32, PathBuf)> {
        let entries = fs::read_dir(self.maps()).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(maps::PROGRAMS)?;
            let number = rest.strip_prefix('_').unwrap_or("0").parse().ok()?;
            Some((number, entry.path()))
        };
        entries.filter_map(number).collect()
    }

    /// Where the array of programs of another load may be pinned.
    pub(super) fn new_program_array(&self) -> PathBuf {
        let taken = self.program_arrays();
        let last = taken.iter().map(|(number, _)| *number).max();
        let number = last.map_or(1, |last| last + 1);
        self.map(&format!("{}_{number}", maps::PROGRAMS))
    }

    /// Where a map is pinned that another one takes the place of.
    pub(super) fn outgrown(&self, name: &str) -> PathBuf {
        self.map(&format!("{name}_old"))
    }

    /// Where the link of an interface is pinned.
    pub fn link(&self, interface: &str) -> PathBuf {
        // A dot in a file name is refused by bpffs, and VLAN interfaces have one.
        self.links().join(interface.replace('.', ":"))
    }

    /// Interfaces with a pinned link.
    pub fn interfaces(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.links()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().replace(':', "."))
            .collect();
        names.sort();
        names
    }

    /// Compares each map that is pinned with what it has to be like. aya takes up any pin, and a
    /// map of another shape would be memory corruption. Where only the size is another one than it
    /// has to be, it may be if [`Sizes`] says it: such maps are returned.
    pub(super) fn check(&self, sizes: &Sizes) -> Result<Vec<&'static str>> {
        let mut outgrown = Vec::new();
        for spec in &SPECS {
            let path = self.map(spec.name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("{}: cannot be opened", path.display()))?;
            let wanted = sizes.entries(spec.name);
            let allowed = wanted.map_or(spec.entries, |_| info.max_entries());
            if wanted.is_some_and(|wanted| wanted != info.max_entries()) {
                outgrown.push(spec.name);
            }
            spec.check(&info, allowed).with_context(|| {
                format!(
                    "{}: this map cannot be taken up; everything was left as it is. `steer detach` \
                     removes it, and stops steering until the next start",
                    path.display()
                )
            })?;
        }
        Ok(outgrown)
    }

    /// Removes the pins. Links go first: a program without links is no longer run.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for folder in [self.links(), self.maps()] {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("{}", folder.display())),
            };
            for entry in entries {
                let path = entry?.path();
                fs::remove_file(&path)
                    .with_context(|| format!("{}: cannot be removed", path.display()))?;
            }
        }
        for folder in [
            self.links(),
            self.maps(),
            self.version.clone(),
            self.steer.clone(),
        ] {
            match fs::remove_dir(&folder) {
                Ok(()) => (),
                // Another version's pins may be beside ours.
                Err(error) if error.kind() == io::ErrorKind::NotFound || folder == self.steer => {}
                Err(error) => return Err(error).with_context(|| format!("{}", folder.display())),
            }
        }
        Ok(())
    }
}

impl Spec {
    fn check(&self, info: &MapInfo, entries: u32) -> Result<()> {
        let found = (
            info.map_type().map_err(|error| anyhow!(error))?,
            info.key_size(),
            info.value_size(),
            info.max_entries(),
            info.map_flags(),
        );
        let wanted = (self.kind, self.key, self.value, entries, self.flags);
        if found != wanted {
            bail!(
                "map {} is {found:?} and has to be {wanted:?} (type, key size, value size, entries, \
                 flags)",
                self.name
            );
        }
        Ok(())
    }
}

fn file_system(path: &Path) -> Result<i64> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: made of integers, of which 0 is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends with 0, and room for the answer.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("{}", path.display()));
    }
    Ok(stat.f_type)
}
