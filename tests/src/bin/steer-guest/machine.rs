//! Tasks of an init process.

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::results::Results;

/// List of modules in load order, placed with them by `cargo xtask vm`.
const MODULES: &str = "/modules";
/// Time in which the kernel removes a deleted network namespace and returns its devices.
const RETURN: Duration = Duration::from_secs(30);

/// Mounts the file systems for the tests.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        fs::create_dir_all(place)?;
        let (kind, place) = (CString::new(kind)?, CString::new(place)?);
        // SAFETY: strings that end with 0, and no data.
        let done = unsafe {
            libc::mount(
                kind.as_ptr(),
                place.as_ptr(),
                kind.as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        ensure!(done == 0, "mount {place:?}: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Loads the modules provided by the host.
pub(crate) fn load_modules(results: &mut Results) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(MODULES)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for path in names {
        let file = fs::File::open(&path)?;
        // SAFETY: an open file, and a string that ends with 0.
        let done =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = io::Error::last_os_error();
        if done != 0 && error.raw_os_error() != Some(libc::EEXIST) {
            let name = path.display().to_string();
            results.tell::<()>(&name, Err(error.into()))?;
        }
    }
    Ok(())
}

/// Returns whether the kernel's command line has this word.
pub(crate) fn is_told(word: &str) -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|w| w == word)
}

/// Returns the value of a key on the kernel's command line.
pub(crate) fn value(key: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut words = line.split_whitespace();
    words.find_map(|word| Some(word.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

/// Returns the names of this many virtio network devices, in the order of the bus.
pub(crate) fn virtio_devices(count: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + RETURN;
    loop {
        let names = virtio_devices_here()?;
        if names.len() == count {
            return Ok(names);
        }
        ensure!(
            Instant::now() < deadline,
            "virtio devices: {names:?}, and not {count}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn virtio_devices_here() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net").context("/sys/class/net")? {
        let path = entry?.path();
        // A device moved to another namespace meanwhile is not ours.
        let driver = fs::read_link(path.join("device/driver")).unwrap_or_default();
        if driver.ends_with("virtio_net") {
            let device = fs::canonicalize(path.join("device"))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.push((device, name.into_owned()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Powers the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: these take no memory of ours.
    unsafe {
        libc::sync();
        libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
    }
    loop {
        std::thread::park();
    }
}
