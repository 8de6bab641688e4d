//! Lock on a folder of pins: a second daemon on the same BPF file system is refused, whatever its
//! configuration.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::pins::Pins;

/// Lock held until this value is dropped. It is on the folder itself (flock(2)), so it is the same
/// for every path or mount of the folder.
#[derive(Debug)]
pub struct PinLock {
    folder: PathBuf,
    held: File,
}

impl PinLock {
    /// Locks the folder of pins below `bpffs`, which is created if missing.
    ///
    /// # Errors
    ///
    /// Returns an error if `bpffs` is not a BPF file system, or another daemon holds the lock.
    pub fn acquire(bpffs: &Path) -> Result<Self> {
        let folder = Pins::root(bpffs)?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot create the folder of pins", folder.display()))?;
        let held = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&folder)
            .with_context(|| format!("{}: cannot be opened", folder.display()))?;
        match held.try_lock() {
            Ok(()) => Ok(Self { folder, held }),
            Err(TryLockError::WouldBlock) => bail!(
                "{}: another daemon uses these pins; stop it, or give this one a `bpffs` of its own",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{}: cannot be locked", folder.display()))
            }
        }
    }

    /// Returns whether the locked folder is still the one at this path.
    pub(super) fn is_current(&self) -> bool {
        let identity = |found: std::io::Result<fs::Metadata>| {
            found.ok().map(|found| (found.dev(), found.ino()))
        };
        let held = identity(self.held.metadata());
        held.is_some() && held == identity(fs::symlink_metadata(&self.folder))
    }
}
