//! Properties of an interface from ethtool ioctls (linux/ethtool.h). They use a socket, so they
//! refer to this network namespace, whatever `/sys` shows.

use std::{io, mem, net::UdpSocket, os::fd::AsRawFd as _};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GDRVINFO: u32 = 0x03;
const GTSO: u32 = 0x1e;
const GGSO: u32 = 0x23;
const GFLAGS: u32 = 0x25;
const GGRO: u32 = 0x2b;
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

/// Offloads that merge or change packets before a program sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Generic receive offload: the kernel merges packets.
    pub gro: bool,
    /// Large receive offload: the network card merges packets.
    pub lro: bool,
    /// VLAN receive offload: the network card strips tags.
    pub rxvlan: bool,
    /// TCP segmentation offload: the network card splits what TCP sends.
    pub tso: bool,
    /// Generic segmentation offload: the kernel splits it last.
    pub gso: bool,
}

/// Returns the name of the driver. Some interfaces have none.
pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GDRVINFO,
        driver: [0; 32],
        _rest: [0; 160],
    };
    query(interface, (&raw mut info).cast())?;
    let name = info.driver.split(|byte| *byte == 0).next();
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

pub(super) fn offloads(interface: &str) -> io::Result<Offloads> {
    let flags = value(interface, GFLAGS)?;
    Ok(Offloads {
        gro: value(interface, GGRO)? != 0,
        lro: flags & FLAG_LRO != 0,
        rxvlan: flags & FLAG_RXVLAN != 0,
        tso: value(interface, GTSO)? != 0,
        gso: value(interface, GGSO)? != 0,
    })
}

fn value(interface: &str, command: u32) -> io::Result<u32> {
    let mut value = Value { command, data: 0 };
    query(interface, (&raw mut value).cast())?;
    Ok(value.data)
}

/// Issues an ethtool ioctl. `data` is the struct of the command in its first word.
fn query(interface: &str, data: *mut libc::c_char) -> io::Result<()> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(interface.bytes().take(room))
    {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: the socket is open, and the kernel writes only into the caller's struct, which has
    // the size of its command.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
