//! Where programs and maps stay while no daemon runs, and what may be taken up again.

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

/// What the name of the second folder of a version ends with.
const RESIZED: &str = "_resized";

/// The folders of pins below a mounted bpffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    steer: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// The pins below `bpffs`, or a folder in it.
    pub fn new(bpffs: &Path) -> Self {
        let [first, second] = Self::folders(bpffs);
        if !first.has_maps() && second.has_maps() {
            second
        } else {
            first
        }
    }

    /// The two places that maps of this version may be pinned in. One of them is in use, but while tables get
    /// another size.
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

    /// The folder of the pins of all versions.
    ///
    /// # Errors
    /// If this is not on a bpffs.
    pub(super) fn root(bpffs: &Path) -> Result<PathBuf> {
        let steer = bpffs.join("steer");
        // Where the service manager hides others' pins, our folder alone is a BPF file system.
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

    /// Makes the folders.
    ///
    /// # Errors
    /// If this is not on a bpffs.
    pub(super) fn prepare(&self) -> Result<()> {
        Self::root(self.steer.parent().unwrap_or(Path::new("/")))?;
        for folder in [self.maps(), self.links()] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("{}: cannot make the folder of pins", folder.display()))?;
        }
        Ok(())
    }

    /// The pins of other versions, and those of tables of other sizes.
    ///
    /// # Errors
    /// If the folder cannot be read.
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

    /// The BPF file system that they are on.
    pub(super) fn bpffs(&self) -> Option<&Path> {
        self.steer.parent()
    }

    /// The folder of this version.
    pub(super) fn folder(&self) -> &Path {
        &self.version
    }

    /// Returns whether any map is pinned.
    pub(super) fn has_maps(&self) -> bool {
        names(&self.maps()).is_ok_and(|names| !names.is_empty())
    }

    /// Links that are pinned for this version.
    pub(super) fn own_links(&self) -> Vec<PathBuf> {
        let names = names(&self.links()).unwrap_or_default();
        names.iter().map(|name| self.links().join(name)).collect()
    }

    /// Where the link of an interface is pinned now, be it by another version.
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

    /// Where the link of an interface is pinned.
    pub fn link(&self, interface: &str) -> PathBuf {
        // A dot in a file name is refused by bpffs, and VLAN interfaces have one.
        self.links().join(interface.replace('.', ":"))
    }

    /// Interfaces with a pinned link, be it by another version.
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

    /// Interfaces with a pinned link that the program is attached to now: a link stays with its interface when that
    /// gets another name.
    pub fn attached(&self) -> Vec<String> {
        let mut interfaces = self.interfaces();
        interfaces.retain(|interface| {
            let Ok(index) = interface_index(interface) else {
                return false;
            };
            let link = self.found_link(interface);
            // Who may not ask sees that a link is pinned.
            link.is_some_and(|link| {
                pinned_link::interface(&link).map_or(true, |at| at == Some(index))
            })
        });
        interfaces
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

    /// Removes the pins of all versions. Links go first: a program without links is no longer run.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for other in self.others()? {
            other.remove_version()?;
        }
        self.remove_version()?;
        match fs::remove_dir(&self.steer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It may be a mount of its own, which stays.
                debug!(path = %self.steer.display(), %error, "the folder stays");
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes the pins of this version alone, links first.
    ///
    /// # Errors
    /// If a pin cannot be removed.
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

    /// Removes the pins of maps, and leaves links.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub(super) fn remove_maps(&self) -> Result<()> {
        remove_all(&self.maps())
    }
}

/// Removes a pin; one that cannot be removed stays.
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

/// What is in a folder; nothing if there is none.
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
    // SAFETY: made of integers, of which 0 is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends with 0, and room for the answer.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("{}", path.display()));
    }
    Ok(stat.f_type)
}
