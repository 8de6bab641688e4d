//! Temporary BPF file systems.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A BPF file system of its own, unmounted when dropped, with its pins and everything that only
/// they held.
#[derive(Debug)]
pub struct Bpffs {
    folder: TempDir,
}

impl Bpffs {
    /// Mounts a file system. Fails without root.
    pub fn mount() -> Result<Self> {
        let folder = TempDir::with_prefix("steer-bpffs-")?;
        let path = CString::new(folder.path().as_os_str().as_bytes())?;
        // SAFETY: NUL-terminated strings, and no data.
        let result = unsafe {
            libc::mount(
                c"bpf".as_ptr(),
                path.as_ptr(),
                c"bpf".as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("mount a BPF file system (needs root)");
        }
        Ok(Self { folder })
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        unmount(self.folder.path());
    }
}

fn unmount(path: &Path) {
    if let Ok(path) = CString::new(path.as_os_str().as_bytes()) {
        // SAFETY: a NUL-terminated string. A failure is ignored.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}
