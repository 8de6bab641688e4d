//! Facts about the kernel and this process.

use std::{fs, mem};

use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};

/// Bits of `CapEff` in proc_pid_status(5) by capabilities(7).
const CAPABILITIES: [(&str, u8); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// Bit that includes `CAP_BPF` and `CAP_PERFMON`.
const CAP_SYS_ADMIN: u8 = 21;

/// Facts about the kernel and this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Kernel version and patch level.
    pub kernel: Option<(u32, u32)>,
    /// Whether programs are compiled to machine code.
    pub jit: Option<bool>,
    /// Required capabilities that this process lacks.
    pub lacks: Vec<&'static str>,
    /// Limit of open files of this process.
    pub files: Option<u64>,
    /// Whether the clock is synchronized.
    pub clock_in_sync: Option<bool>,
}

impl System {
    pub(super) fn read() -> Self {
        let flag = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim() != "0");
        Self {
            kernel: kernel(),
            jit: flag("/proc/sys/net/core/bpf_jit_enable"),
            lacks: lacks(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            files: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            clock_in_sync: clock_in_sync(),
        }
    }
}

fn kernel() -> Option<(u32, u32)> {
    version(uname().ok()?.release().to_str()?)
}

pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn lacks(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(bits) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Vec::new();
    };
    let has = |bit: u8| bits >> bit & 1 != 0;
    let lacks = |(name, bit): &(&'static str, u8)| {
        let stands_in = *name != "CAP_NET_ADMIN" && has(CAP_SYS_ADMIN);
        (!has(*bit) && !stands_in).then_some(*name)
    };
    CAPABILITIES.iter().filter_map(lacks).collect()
}

/// Queries adjtimex(2), which changes nothing in this mode.
fn clock_in_sync() -> Option<bool> {
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes only into `state`.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => None,
        _ => Some(state.status & libc::STA_UNSYNC == 0),
    }
}
