//! Small file systems, to be filled.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A tmpfs of a few pages, unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of so many bytes at a folder, which is made. Fails when not run as root.
    pub fn mount(path: &Path, bytes: usize) -> Result<Self> {
        fs::create_dir_all(path)?;
        let target = CString::new(path.as_os_str().as_bytes())?;
        let data = CString::new(format!("size={bytes},mode=700"))?;
        // SAFETY: strings that end with 0.
        let result = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                data.as_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("mount a tmpfs (needs root)");
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        loop {
            match file.write(&[0; 512]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Ok(path) = CString::new(self.path.as_os_str().as_bytes()) {
            // SAFETY: a string that ends with 0. There is nothing to do about a failure.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
    }
}
