//! The lock on a folder of pins: of two daemons on one BPF file system the second is refused, whatever else their
//! configurations say.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::pins::Pins;

/// Held for as long as the value lives. The lock is on the folder itself (flock(2)), so that it is the same one by
/// whatever path or mount the folder is reached.
#[derive(Debug)]
pub struct PinLock {
    folder: PathBuf,
    held: File,
}

impl PinLock {
    /// Takes the lock on the folder of pins below `bpffs`, which is made if it is not there.
    ///
    /// # Errors
    /// If `bpffs` is no BPF file system, or another daemon holds the lock.
    pub fn take(bpffs: &Path) -> Result<Self> {
        let folder = Pins::root(bpffs)?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot make the folder of pins", folder.display()))?;
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

    /// Returns true while the locked folder still is the one of this name.
    pub(super) fn is_current(&self) -> bool {
        let identity = |found: std::io::Result<fs::Metadata>| {
            found.ok().map(|found| (found.dev(), found.ino()))
        };
        let held = identity(self.held.metadata());
        held.is_some() && held == identity(fs::symlink_metadata(&self.folder))
    }
}
