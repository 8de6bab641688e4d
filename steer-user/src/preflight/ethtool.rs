//! What ethtool(8) shows of an interface, by the same requests (linux/ethtool.h). They go by a socket,
//! and so to this network namespace, whatever `/sys` is of.

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

/// What the network card joins or takes off before a program sees a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets are joined by the kernel (generic receive offload).
    pub gro: bool,
    /// Packets are joined by the card (large receive offload).
    pub lro: bool,
    /// VLAN tags are taken off by the card.
    pub rxvlan: bool,
    /// The card cuts what TCP sends into packets.
    pub tso: bool,
    /// The kernel does so, behind all else.
    pub gso: bool,
}

/// The name of the driver. Not every interface has one.
pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GDRVINFO,
        driver: [0; 32],
        _rest: [0; 160],
    };
    ask(interface, (&raw mut info).cast())?;
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
    ask(interface, (&raw mut value).cast())?;
    Ok(value.data)
}

/// `data` is the struct that the command in its first word is made for.
fn ask(interface: &str, data: *mut libc::c_char) -> io::Result<()> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: a struct of integers, for which zero is a value.
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
    // SAFETY: the socket is open, and the kernel writes into the callers' structs only, which are of
    // the size that their commands have.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
