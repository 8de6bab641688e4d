//! An XDP program that passes everything.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use steer_dataplane::{bench_object, interface_index};

use crate::netns::Namespace;

/// An interface with a program that passes everything, while this value lives. A veth device
/// receives frames that its peer sends by `XDP_TX` only if it has a program.
pub struct Pass(#[allow(dead_code, reason = "holds the link")] Ebpf);

impl Pass {
    /// Attaches the program.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such interface, or the kernel refuses.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| {
            let mut ebpf = EbpfLoader::new().load(bench_object())?;
            let program = ebpf.program_mut("null").context("no program null")?;
            let program: &mut Xdp = program.try_into()?;
            program.load()?;
            program.attach_to_if_index(interface_index(interface)?, XdpMode::Driver)?;
            Ok(Self(ebpf))
        })?
    }
}
