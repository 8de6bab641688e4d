//! The kernel: supported versions, and the number of processors.

use std::fs;

use anyhow::{Context as _, Result, bail};
use aya::util::nr_cpus;

/// Oldest supported Linux version; `cargo xtask vm` tests the program on it.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Advice for older kernels.
pub const UPGRADE: &str =
    "boot a newer kernel (Debian: linux-image-amd64 of bookworm or bookworm-backports)";

/// Refuses a kernel that is too old.
///
/// # Errors
///
/// Returns an error with advice if the kernel is too old, or if its version cannot be read.
pub fn check_kernel() -> Result<()> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path).with_context(|| format!("{path}: cannot be read"))?;
    check_release(release.trim())
}

/// Returns the number of processors that the kernel provides per-CPU values for; 0 if it does not
/// say.
#[must_use]
pub fn possible_cpus() -> u32 {
    nr_cpus().map_or(0, |cpus| cpus as u32)
}

/// Refuses a kernel release, such as `6.1.0-51-cloud-amd64`, that is too old.
///
/// # Errors
///
/// The same as [`check_kernel`].
pub(crate) fn check_release(release: &str) -> Result<()> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (number(), number()) else {
        bail!(
            "the kernel release \"{}\" has no version number",
            release.escape_debug()
        );
    };
    let (oldest_major, oldest_minor) = OLDEST_KERNEL;
    if (major, minor) < OLDEST_KERNEL {
        bail!(
            "Linux {release} is too old: steer needs {oldest_major}.{oldest_minor} or later; {UPGRADE}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_name() {
        for release in ["6.1.0-51-cloud-amd64", "6.12.117+deb13", "7.3-rc1", "10.0"] {
            check_release(release).unwrap();
        }
        for release in ["5.10.0-32-cloud-amd64", "6.0.19", "4.19"] {
            let error = check_release(release).unwrap_err().to_string();
            assert!(error.contains(release) && error.contains("6.1"), "{error}");
        }
        assert!(check_release("linux").is_err());
    }
}
