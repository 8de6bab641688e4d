//! Pins of programs and maps, which stay while no daemon runs, and checks before they are reused.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::maps::MapInfo;
use steer_common::abi::{ABI_VERSION, maps};
use tracing::{debug, warn};

use super::{attach::interface_index, pinned_link, sizes::Sizes, specs::SPECS};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Suffix of the second folder of a version.
const RESIZED: &str = "_resized";

/// Folders of pins below a mounted bpffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    steer: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Returns the pins below `bpffs`, or below a folder in it.
    pub fn new(bpffs: &Path) -> Self {
        let [first, second] = Self::folders(bpffs);
        if !first.has_maps() && second.has_maps() {
            second
        } else {
            first
        }
    }

    /// Returns the two possible folders of this version's maps. One of them is in use, except while
    /// tables are resized.
    pub(super) fn folders(bpffs: &Path) -> [Self; 2] {
        let steer = bpffs.join("steer");
        [
            format!("v{ABI_VERSION}"),
            format!("v{ABI_VERSION}{RESIZED}"),
        ]
        .map(|name| Self {
            version: steer.join(name),
            steer: steer.clone(),
        })
    }

    /// Returns the folder with the pins of all versions.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not on a bpffs.
    pub(super) fn root(bpffs: &Path) -> Result<PathBuf> {
        let steer = bpffs.join("steer");
        // If the service manager hides other pins, only our folder is a BPF file system.
        let is_ours = file_system(&steer).is_ok_and(|magic| magic == BPF_FS_MAGIC);
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
        Ok(steer)
    }

    /// Creates the folders.
    ///
    /// # Errors
    ///
    /// Returns an error if they are not on a bpffs.
    pub(super) fn prepare(&self) -> Result<()> {
        Self::root(self.steer.parent().unwrap_or(Path::new("/")))?;
        for folder in [self.maps(), self.links()] {
            fs::create_dir_all(&folder).with_context(|| {
                format!("{}: cannot create the folder of pins", folder.display())
            })?;
        }
        Ok(())
    }

    /// Returns the pins of other versions, and those of tables with other sizes.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub(super) fn others(&self) -> Result<Vec<Self>> {
        let names = names(&self.steer).with_context(|| format!("{}", self.steer.display()))?;
        let mut others: Vec<_> = names
            .into_iter()
            .map(|name| Self {
                steer: self.steer.clone(),
                version: self.steer.join(name),
            })
            .filter(|other| other.version != self.version)
            .collect();
        others.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(others)
    }

    /// Returns the BPF file system of the pins.
    pub(super) fn bpffs(&self) -> Option<&Path> {
        self.steer.parent()
    }

    /// Returns the folder of this version.
    pub(super) fn folder(&self) -> &Path {
        &self.version
    }

    /// Returns whether any map is pinned.
    pub(super) fn has_maps(&self) -> bool {
        names(&self.maps()).is_ok_and(|names| !names.is_empty())
    }

    /// Returns the pinned links of this version.
    pub(super) fn own_links(&self) -> Vec<PathBuf> {
        let names = names(&self.links()).unwrap_or_default();
        names.iter().map(|name| self.links().join(name)).collect()
    }

    /// Returns the path at which the link of an interface is pinned, possibly by another version.
    pub(super) fn found_link(&self, interface: &str) -> Option<PathBuf> {
        let others = self.others().unwrap_or_default();
        let all = std::iter::once(self).chain(&others);
        all.map(|pins| pins.link(interface))
            .find(|path| path.exists())
    }

    fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version.join("links")
    }

    /// Returns the path of a map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Returns pinned program arrays by their number. Each load of the programs has its own, so
    /// that programs of different loads never call each other.
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

    /// Returns a free path for the program array of another load.
    pub(super) fn new_program_array(&self) -> PathBuf {
        let taken = self.program_arrays();
        let last = taken.iter().map(|(number, _)| *number).max();
        let number = last.map_or(1, |last| last + 1);
        self.map(&format!("{}_{number}", maps::PROGRAMS))
    }

    /// Returns the path of an interface's link.
    pub fn link(&self, interface: &str) -> PathBuf {
        // bpffs refuses dots in file names, and names of VLAN interfaces contain one.
        self.links().join(interface.replace('.', ":"))
    }

    /// Returns the interfaces with a pinned link, possibly of another version.
    pub fn interfaces(&self) -> Vec<String> {
        let mut all = self.others().unwrap_or_default();
        all.push(self.clone());
        let mut interfaces: Vec<String> = all
            .iter()
            .flat_map(Self::own_links)
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().replace(':', ".")))
            .collect();
        interfaces.sort();
        interfaces.dedup();
        interfaces
    }

    /// Returns the interfaces with the program attached by a pinned link: a link stays with its
    /// interface when that is renamed.
    pub fn attached(&self) -> Vec<String> {
        let mut interfaces = self.interfaces();
        interfaces.retain(|interface| {
            let Ok(index) = interface_index(interface) else {
                return false;
            };
            let link = self.found_link(interface);
            // Without permission to query, only the pin itself is visible.
            link.is_some_and(|link| {
                pinned_link::interface(&link).map_or(true, |at| at == Some(index))
            })
        });
        interfaces
    }

    /// Compares each pinned map with its specification. aya reuses any pin unchecked, and a map of
    /// another shape would corrupt memory. Maps that differ only in size, where [`Sizes`] allows
    /// that, are returned.
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
                    "{}: this map cannot be reused; nothing was changed. `steer detach` removes \
                     it, and stops steering until the next start",
                    path.display()
                )
            })?;
        }
        Ok(outgrown)
    }

    /// Removes the pins of all versions. Links are removed first: a program without links no longer
    /// runs.
    ///
    /// # Errors
    ///
    /// Returns an error if a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for other in self.others()? {
            other.remove_version()?;
        }
        self.remove_version()?;
        match fs::remove_dir(&self.steer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The folder may be a mount point, which stays.
                debug!(path = %self.steer.display(), %error, "the folder stays");
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes the pins of this version only, links first.
    ///
    /// # Errors
    ///
    /// Returns an error if a pin cannot be removed.
    pub(super) fn remove_version(&self) -> Result<()> {
        for folder in [self.links(), self.maps()] {
            remove_all(&folder)?;
        }
        for folder in [&self.links(), &self.maps(), &self.version] {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the pins of maps, and keeps links.
    ///
    /// # Errors
    ///
    /// Returns an error if one cannot be removed.
    pub(super) fn remove_maps(&self) -> Result<()> {
        remove_all(&self.maps())
    }
}

/// Removes a pin, ignoring failure.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!(path = %path.display(), %error, "a pin stays");
    }
}

fn remove_all(folder: &Path) -> Result<()> {
    let names = names(folder).with_context(|| format!("{}", folder.display()))?;
    for path in names.iter().map(|name| folder.join(name)) {
        fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
    }
    Ok(())
}

/// Returns the names in a folder; empty if there is none.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn file_system(path: &Path) -> Result<i64> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the struct consists of integers, for which 0 is valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated string, and room for the result.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("{}", path.display()));
    }
    Ok(stat.f_type)
}
