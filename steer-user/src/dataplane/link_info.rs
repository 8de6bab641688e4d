//! What the kernel says of a link that aya does not ask for.

use std::{io, mem, os::fd::FromRawFd, os::fd::OwnedFd};

use anyhow::{Context, Result};

/// `BPF_LINK_GET_FD_BY_ID` and `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const GET_FD_BY_ID: libc::c_long = 30;
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

#[repr(C, align(8))]
#[derive(Default)]
struct InfoQuery {
    fd: u32,
    len: u32,
    info: u64,
}

/// The interface of the XDP link with this id; `None` if the interface is gone.
pub(super) fn xdp_interface(id: u32) -> Result<Option<u32>> {
    let query = [id, 0, 0, 0];
    // SAFETY: the command reads the id, and answers with a descriptor that is ours.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_FD_BY_ID,
            &raw const query,
            mem::size_of_val(&query),
        )
    };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
        .context("cannot open the link")?;
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
