//! Operations on pinned links that aya lacks. Links are opened by pin, because opening by id needs
//! more than CAP_BPF and CAP_NET_ADMIN.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use anyhow::{Context, Result};

/// `BPF_OBJ_PIN`, `BPF_OBJ_GET`, `BPF_OBJ_GET_INFO_BY_FD` and `BPF_LINK_DETACH` of `enum bpf_cmd`.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const GET_INFO_BY_FD: libc::c_long = 15;
const LINK_DETACH: libc::c_long = 34;

/// Beginning of `struct bpf_link_info`, with its XDP variant.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _pad: u32,
    interface: u32,
    _rest: [u32; 15],
}

#[repr(C, align(8))]
#[derive(Default)]
struct InfoQuery {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C, align(8))]
#[derive(Default)]
struct ObjectQuery {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Returns the interface of a pinned XDP link; `None` if it is gone.
pub(super) fn interface(pin: &Path) -> Result<Option<u32>> {
    let info = info(pin)?;
    Ok((info.interface != 0).then_some(info.interface))
}

/// Returns the id of the program behind a pinned link.
pub(super) fn program(pin: &Path) -> Result<u32> {
    Ok(info(pin)?.program)
}

fn info(pin: &Path) -> Result<LinkInfo> {
    let fd = open(pin)?;
    let mut info = LinkInfo::default();
    let query = InfoQuery {
        fd: fd.as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the command writes at most `len` bytes to `info`.
    unsafe { call(GET_INFO_BY_FD, &query) }
        .with_context(|| format!("{}: cannot ask for the link", pin.display()))?;
    Ok(info)
}

/// Detaches the program at once, and removes the pin. Without the explicit detach, the kernel does
/// it some time later.
pub(super) fn detach(pin: &Path) -> Result<()> {
    let fd = open(pin)?;
    let query = [fd.as_raw_fd() as u32, 0];
    // SAFETY: the command reads the descriptor.
    unsafe { call(LINK_DETACH, &query) }
        .with_context(|| format!("{}: cannot be detached", pin.display()))?;
    std::fs::remove_file(pin).with_context(|| format!("{}: cannot be removed", pin.display()))
}

/// Pins a map.
pub(super) fn pin(map: BorrowedFd<'_>, pin: &Path) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let query = ObjectQuery {
        path: path.as_ptr() as u64,
        fd: map.as_raw_fd() as u32,
        ..ObjectQuery::default()
    };
    // SAFETY: the command reads the path and the descriptor.
    unsafe { call(OBJ_PIN, &query) }
        .with_context(|| format!("{}: cannot be pinned", pin.display()))?;
    Ok(())
}

fn open(pin: &Path) -> Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let query = ObjectQuery {
        path: path.as_ptr() as u64,
        ..ObjectQuery::default()
    };
    // SAFETY: the command reads the path, and returns a descriptor that we own.
    let fd = unsafe { call(OBJ_GET, &query) }
        .with_context(|| format!("{}: cannot open the link", pin.display()))?;
    // SAFETY: a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Issues a bpf(2) command.
///
/// # Safety
///
/// `attributes` must match the command, and the memory they point to must outlive the call.
unsafe fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: guaranteed by the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
