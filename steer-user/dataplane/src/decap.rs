//! The decapsulation program for backends without a tunnel device.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, lpm_trie::LpmTrie},
    programs::{Xdp as Program, links::FdLink},
};
use steer_common::{
    abi::{Address, maps},
    verdict::DropReason,
};

use super::{
    attach::attach_by_link, interface_index, kernel::check_kernel, object::decap_object, prefix,
    retry,
};

/// Decapsulation on an interface: strips the outer header of encapsulated packets until this value
/// is dropped.
pub struct Decap {
    ebpf: Ebpf,
    _link: FdLink,
}

impl Decap {
    /// Loads the program, allows packets from `sources` (addresses with prefix lengths) and
    /// attaches it to an interface. UDP to `gue_port` is parsed as GUE.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no source or no such interface, or the kernel is too old or
    /// refuses.
    pub fn attach(
        interface: &str,
        sources: &[(IpAddr, u8)],
        gue_port: u16,
        generic: bool,
    ) -> Result<Self> {
        if sources.is_empty() {
            bail!("no node to accept packets from: without one, anyone could bypass a firewall");
        }
        check_kernel()?;
        let index = interface_index(interface)?;
        let mut ebpf = EbpfLoader::new()
            .load(decap_object())
            .context("cannot load the maps; this needs CAP_BPF and CAP_NET_ADMIN, or root")?;
        set_up(&mut ebpf, sources, gue_port)?;
        let program: &mut Program = ebpf
            .program_mut("steer_decap")
            .ok_or_else(|| anyhow!("the object has no program steer_decap"))?
            .try_into()?;
        retry::load(|| program.load()).context("the kernel refuses the XDP program")?;
        let link = attach_by_link(program, interface, index, generic)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Returns the number of decapsulated packets, and of dropped packets by reason.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub fn counters(&self) -> Result<(u64, Vec<(DropReason, u64)>)> {
        let map = self
            .ebpf
            .map(maps::DECAP_COUNTS)
            .ok_or_else(|| anyhow!("the object has no map {}", maps::DECAP_COUNTS))?;
        let counts: PerCpuArray<_, u64> = map.try_into()?;
        let sum = |index: u32| -> Result<u64> { Ok(counts.get(&index, 0)?.iter().sum()) };
        let mut drops = Vec::new();
        for reason in DropReason::ALL {
            drops.push((reason, sum(reason as u32)?));
        }
        Ok((sum(0)?, drops))
    }
}

/// Writes the allowed sources.
///
/// # Errors
///
/// Returns an error if there are more sources than the map takes.
pub fn set_up(ebpf: &mut Ebpf, sources: &[(IpAddr, u8)], gue_port: u16) -> Result<()> {
    let map = ebpf
        .map_mut(maps::DECAP_SOURCES)
        .ok_or_else(|| anyhow!("the object has no map {}", maps::DECAP_SOURCES))?;
    let mut map: LpmTrie<_, Address, u32> = map.try_into()?;
    for (source, len) in sources {
        let key = prefix::key((*source, *len));
        retry::update(|| map.insert(&key, 1, 0))
            .with_context(|| format!("{source}: too many nodes"))?;
    }
    let map = ebpf
        .map_mut(maps::DECAP_PORT)
        .ok_or_else(|| anyhow!("the object has no map {}", maps::DECAP_PORT))?;
    let mut port: Array<_, u32> = map.try_into()?;
    port.set(0, u32::from(gue_port), 0)?;
    Ok(())
}
