//! What the kernel says of a link that aya does not ask for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context, Result};

/// `BPF_OBJ_GET` and `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const OBJ_GET: libc::c_long = 7;
const GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of `struct bpf_link_info`, with its variant for XDP.
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

#[repr(C)]
#[derive(Default)]
struct PinQuery {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct InfoQuery {
    fd: u32,
    len: u32,
    info: u64,
}

/// The interface of the XDP link that is pinned at a path; `None` if the interface is gone.
///
/// It is opened by its pin: to open it by its id takes CAP_SYS_ADMIN, which the daemon has not.
pub(super) fn xdp_interface(pin: &Path) -> Result<Option<u32>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let query = PinQuery {
        path: path.as_ptr() as u64,
        ..PinQuery::default()
    };
    // SAFETY: the command reads a string that ends with 0, and answers with a descriptor that is ours.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET,
            &raw const query,
            size_of::<PinQuery>(),
        )
    };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
        .with_context(|| format!("{}: cannot open the link", pin.display()))?;
    // SAFETY: a new descriptor.
    let _fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = LinkInfo::default();
    let query = InfoQuery {
        fd: fd as u32,
        len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the command writes at most `len` bytes to `info`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_INFO_BY_FD,
            &raw const query,
            size_of::<InfoQuery>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot ask for the link");
    }
    Ok((info.interface != 0).then_some(info.interface))
}
