//! Facts about this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs, io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use nix::{
    ifaddrs::getifaddrs,
    unistd::{Group, User},
};
use steer_core::config::{Config, Principal};
use steer_dataplane::Pins;

use super::{Link, Offloads, System, Way, ethtool, links};

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The discard port (RFC 863); no packet is sent.
const DISCARD: u16 = 9;

/// Facts about this host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Interfaces by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Route to each backend's address.
    pub routes: BTreeMap<IpAddr, Result<Route, String>>,
    /// Local port range of the host's own connections.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// Reserved ports within it.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// Available memory in bytes.
    pub memory: Option<u64>,
    /// Number of possible processors, which sizes per-CPU maps.
    pub cpus: usize,
    /// Whether maps of an earlier daemon exist, which have their memory already.
    pub pinned: bool,
    /// Whether the BPF file system is mounted.
    pub bpffs: Option<bool>,
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Drivers of the configured interfaces that have one.
    pub drivers: BTreeMap<String, String>,
    /// Offloads of these interfaces, of their ports, and of veth peers; all of them act before a
    /// program sees packets.
    pub offloads: BTreeMap<String, Offloads>,
    /// Reverse-path filter by interface: 1 is strict, 2 is loose.
    pub rp_filter: BTreeMap<String, u8>,
    /// IPv4 forwarding by interface.
    pub forwarding: BTreeMap<String, bool>,
    /// Interfaces with our program attached by a pinned link.
    pub attached: Vec<String>,
    /// Addresses of backends whose next hop does not answer, if checked.
    pub unresolved: BTreeSet<IpAddr>,
    /// Path to each backend by the kernel's routing.
    pub ways: BTreeMap<IpAddr, Way>,
    /// TCP addresses on which processes of this host listen.
    pub listeners: Vec<SocketAddr>,
    /// Reason why the state directory is not writable.
    pub state_refused: Option<String>,
    /// Kernel and process.
    pub system: System,
}

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// Route of the kernel's own packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Source address.
    pub source: IpAddr,
    /// Path MTU in bytes, as far as known.
    pub mtu: Option<u32>,
}

impl Facts {
    /// Collects the facts that matter for a configuration. Unknown facts stay empty.
    #[must_use]
    pub fn read(config: &Config) -> Self {
        let mut routes = BTreeMap::new();
        for backend in &config.backends {
            let find = || route(backend.address).map_err(|error| error.to_string());
            routes.entry(backend.address).or_insert_with(find);
        }
        let links = links::links().unwrap_or_default();
        let number = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let local = number("ip_local_port_range").ok();
        let reserved = number("ip_local_reserved_ports").unwrap_or_default();
        Self {
            interfaces: interfaces(),
            routes,
            local_ports: local.and_then(|text| {
                let (first, last) = text.trim().split_once(char::is_whitespace)?;
                Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
            }),
            reserved_ports: ranges(&reserved),
            memory: memory_available(),
            cpus: possible_cpus(),
            pinned: config.node.bpffs.join("steer").exists(),
            bpffs: is_bpffs(&config.node.bpffs.join("steer"))
                .or_else(|_| is_bpffs(&config.node.bpffs))
                .ok(),
            drivers: of_interfaces(config, |name| ethtool::driver(name).ok()),
            offloads: offloads(config, &links),
            ways: ways(config),
            listeners: listeners(),
            state_refused: refused(&config.node.state_dir).map(|error| error.to_string()),
            links,
            rp_filter: of_interfaces(config, rp_filter),
            forwarding: of_interfaces(config, |name| Some(setting(name, "forwarding")? != 0)),
            attached: Pins::new(&config.node.bpffs).attached(),
            unresolved: BTreeSet::new(),
            system: System::read(),
        }
    }

    /// Returns the ports of a bond or a bridge.
    pub(super) fn ports<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        let belongs = move |link: &&Link| link.controller.as_deref() == Some(name);
        let ports = self.links.iter().filter(move |(_, link)| belongs(link));
        ports.map(|(name, _)| name.as_str())
    }

    /// Returns the kind of a link; empty for a network card.
    pub(super) fn kind(&self, name: &str) -> &str {
        self.links.get(name).map_or("", |link| link.kind.as_str())
    }

    /// Checks which backends' next hops answer.
    pub(super) fn ask_neighbours(&mut self, config: &Config) {
        let addresses = config.backends.iter().map(|backend| backend.address);
        let silent = links::unresolved(&addresses.collect());
        self.unresolved.extend(silent.unwrap_or_default());
    }
}

fn of_interfaces<T>(config: &Config, find: impl Fn(&str) -> Option<T>) -> BTreeMap<String, T> {
    let names = config.node.interfaces.iter();
    names
        .filter_map(|name| Some((name.clone(), find(name)?)))
        .collect()
}

/// Returns the offloads of the configured interfaces, of their ports, and of veth peers.
fn offloads(config: &Config, links: &BTreeMap<String, Link>) -> BTreeMap<String, Offloads> {
    let named = &config.node.interfaces;
    let ports = links.iter().filter(|(_, link)| {
        link.controller
            .as_ref()
            .is_some_and(|owner| named.contains(owner))
    });
    let peers = named
        .iter()
        .filter_map(|name| links.get(name)?.peer.as_ref());
    let all = named.iter().chain(ports.map(|(name, _)| name)).chain(peers);
    all.filter_map(|name| Some((name.clone(), ethtool::offloads(name).ok()?)))
        .collect()
}

fn ways(config: &Config) -> BTreeMap<IpAddr, Way> {
    let addresses = config.backends.iter().map(|backend| backend.address);
    let found = links::ways(&addresses.collect()).unwrap_or_default();
    let way = |(interface, on_link): (u32, bool)| {
        let interface = name_of(interface)?;
        let flag = |key: &str| {
            let all = setting("all", key).unwrap_or(0);
            setting(&interface, key).unwrap_or(0).max(all) != 0
        };
        Some(Way {
            forwards: setting(&interface, "forwarding") == Some(1),
            accepts_local: flag("accept_local"),
            interface,
            on_link,
        })
    };
    let ways = found.into_iter();
    ways.filter_map(|(address, found)| Some((address, way(found)?)))
        .collect()
}

fn name_of(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()?
        .into_string()
        .ok()
}

fn listeners() -> Vec<SocketAddr> {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/net/{name}")));
    let texts = tables.into_iter().flatten();
    texts.flat_map(|text| listening(&text)).collect()
}

/// Parses listening sockets in a table of proc_net(5): addresses are words in the host's byte
/// order.
pub(super) fn listening(table: &str) -> Vec<SocketAddr> {
    /// `TCP_LISTEN` of `net/tcp_states.h`.
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16)
            .ok()
            .filter(|_| state == LISTEN)?;
        let mut bytes = Vec::new();
        for at in (0..address.len()).step_by(8) {
            let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
            bytes.extend(word.to_ne_bytes());
        }
        let ip = match <[u8; 4]>::try_from(&bytes[..]) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?),
        };
        Some(SocketAddr::new(ip, port))
    };
    table.lines().filter_map(socket).collect()
}

/// Returns why a folder cannot be written or created; by access(2), which changes nothing.
fn refused(folder: &Path) -> Option<io::Error> {
    let there = folder.ancestors().find(|path| path.exists())?;
    let path = CString::new(there.as_os_str().as_bytes()).ok()?;
    // SAFETY: the string is NUL-terminated.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } {
        0 => None,
        _ => Some(io::Error::last_os_error()),
    }
}

fn setting(interface: &str, key: &str) -> Option<u8> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/{key}");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The larger value of the interface's own and the global one applies (ip-sysctl of the kernel).
fn rp_filter(interface: &str) -> Option<u8> {
    let key = "rp_filter";
    Some(setting(interface, key)?.max(setting("all", key)?))
}

fn interfaces() -> BTreeMap<String, Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(addresses) = getifaddrs() else {
        return found;
    };
    for entry in addresses {
        let name = entry.interface_name.clone();
        let interface = found.entry(name.clone()).or_insert_with(|| Interface {
            mtu: interface_mtu(&name).ok(),
            ..Interface::default()
        });
        interface.loopback |= entry
            .flags
            .contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            interface.addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            interface.addresses.push(v6.ip().into());
        }
    }
    found
}

/// Queries the MTU by a socket, because `/sys` may show another network namespace.
fn interface_mtu(name: &str) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from.cast_signed();
    }
    // SAFETY: the socket is open, and the kernel writes only into the request.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the field that the request fills.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// Queries the route by connecting a UDP socket, which sends nothing.
fn route(address: IpAddr) -> io::Result<Route> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(address, DISCARD))?;
    let (level, option) = match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut len = mem::size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `mtu`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    Ok(Route {
        source: socket.local_addr()?.ip(),
        mtu: u32::try_from(mtu).ok().filter(|_| done == 0),
    })
}

/// Returns the number of a user or group; `None` if this host has none of that name.
#[must_use]
pub fn principal_id(name: &Principal) -> Option<u32> {
    let (Principal::User(text) | Principal::Group(text)) = name else {
        return None;
    };
    if let Ok(id) = text.parse() {
        return Some(id);
    }
    match name {
        Principal::User(name) => Some(User::from_name(name).ok()??.uid.as_raw()),
        Principal::Group(name) => Some(Group::from_name(name).ok()??.gid.as_raw()),
        Principal::Certificate(_) => None,
    }
}

/// Parses ranges in the kernel's notation: `80,1000-2000`.
pub(super) fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let parts = text.trim().split(',');
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    parts.filter_map(range).collect()
}

fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn possible_cpus() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = ranges(&text)
        .into_iter()
        .map(|range| usize::from(*range.end()))
        .max();
    last.map_or(1, |last| last + 1)
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the string is NUL-terminated, and the kernel writes only into `found`.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type == BPF_FS_MAGIC)
}
