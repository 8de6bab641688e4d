//! The data path in the kernel: the program loaded, attached, pinned and taken up again.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{
        ProgramError, Xdp as Program, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

use steer_common::abi::{PROGRAMS, maps};

use super::{
    kernel_maps::KernelMaps,
    link_info,
    object::object,
    pins::{Pins, SPECS},
};

/// Name of the program in the object.
const PROGRAM: &str = "steer_main";

/// What to load, and where to keep it.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// A mounted bpffs, or a folder in one, below which maps and links are pinned. Without it all
    /// of it ends with this process.
    pub bpffs: Option<PathBuf>,
    /// Entries of each nat map and of the flow table, other than the usual.
    pub flows: Option<u32>,
}

/// The loaded program with its maps.
pub struct Xdp {
    attacher: Attacher,
    maps: KernelMaps,
    adopted: bool,
}

/// The loaded program, to attach it to interfaces.
pub struct Attacher {
    ebpf: Ebpf,
    pins: Option<Pins>,
    /// Without a pin the kernel empties the array when nobody holds it.
    _programs: ProgramArray<MapData>,
}

impl Xdp {
    /// Loads the program. Maps that are pinned are taken up after their shape was compared; those
    /// that are not are made and pinned.
    ///
    /// # Errors
    /// If a pinned map does not fit, `bpffs` is none, or the kernel refuses the program. What is
    /// attached stays as it is.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let pins = options.bpffs.as_deref().map(Pins::new);
        let mut loader = EbpfLoader::new();
        let mut adopted = false;
        if let Some(pins) = &pins {
            pins.prepare()?;
            pins.check()?;
            for spec in &SPECS {
                let path = pins.map(spec.name);
                adopted |= path.exists();
                loader.map_pin_path(spec.name, path);
            }
        }
        if let Some(flows) = options.flows {
            for name in ["FLOWS", "NAT_FORWARD", "NAT_REVERSE"] {
                loader.map_max_entries(name, flows);
            }
        }
        let mut ebpf = loader
            .load(object())
            .context("cannot load the maps; this needs CAP_BPF and CAP_NET_ADMIN, or root")?;
        let programs = ebpf
            .take_map(maps::PROGRAMS)
            .ok_or_else(|| anyhow!("the object has no map {}", maps::PROGRAMS))?;
        for name in PROGRAMS {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("the kernel refuses the XDP program {name}"))?;
        }
        let mut programs = ProgramArray::try_from(programs)?;
        for (index, name) in (0..).zip(PROGRAMS) {
            programs
                .set(index, program(&mut ebpf, name)?.fd()?, 0)
                .with_context(|| format!("cannot put the program {name} where others find it"))?;
        }
        let maps = KernelMaps::new(&mut ebpf)?;
        Ok(Self {
            attacher: Attacher {
                ebpf,
                pins,
                _programs: programs,
            },
            maps,
            adopted,
        })
    }

    /// Whether maps of an earlier run were taken up.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// As [`Attacher::attach`].
    ///
    /// # Errors
    /// As there.
    pub fn attach(&mut self, interface: &str, generic: bool) -> Result<()> {
        self.attacher.attach(interface, generic)
    }

    /// As [`Attacher::interfaces`].
    pub fn interfaces(&self) -> Vec<String> {
        self.attacher.interfaces()
    }

    /// The program, to run it on packets of a test.
    ///
    /// # Errors
    /// None, unless the object is not ours.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.attacher.program()
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut KernelMaps {
        &mut self.maps
    }

    /// The program and the maps, each for whom it concerns.
    pub fn into_parts(self) -> (Attacher, KernelMaps) {
        (self.attacher, self.maps)
    }
}

impl Attacher {
    /// Attaches the program to an interface by a bpf_link, which is pinned. Where a link is pinned
    /// already, the program behind it is replaced, and no packet is missed.
    ///
    /// # Errors
    /// If there is no such interface, its driver has no XDP (with `generic` unset), or another
    /// program is there.
    pub fn attach(&mut self, interface: &str, generic: bool) -> Result<()> {
        let index = interface_index(interface)?;
        let pin = self.pins.as_ref().map(|pins| pins.link(interface));
        let program = program(&mut self.ebpf, PROGRAM)?;
        if let Some(path) = pin.as_ref().filter(|path| path.exists()) {
            if link_info::xdp_interface(path)? == Some(index) {
                let link = PinnedLink::from_pin(path)
                    .with_context(|| format!("{}: cannot take up the link", path.display()))?;
                let link = XdpLink::try_from(FdLink::from(link))
                    .with_context(|| format!("{}: not a link of XDP", path.display()))?;
                let id = program.attach_to_link(link).with_context(|| {
                    format!("interface {interface}: cannot replace the program")
                })?;
                // The pin holds the link; this process need not.
                drop(program.take_link(id)?);
                return Ok(());
            }
            // The interface that it belonged to is gone.
            std::fs::remove_file(path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        let link = attach_by_link(program, interface, index, generic)?;
        match pin {
            Some(path) => {
                // The pin holds the link; this process need not.
                link.pin(&path)
                    .with_context(|| format!("{}: cannot pin the link", path.display()))?;
            }
            None => {
                let link = XdpLink::try_from(link)?;
                program.attach_to_link(link)?;
            }
        }
        Ok(())
    }

    /// The main program, to run it on packets of a test.
    ///
    /// # Errors
    /// None, unless the object is not ours.
    pub fn program(&mut self) -> Result<&mut Program> {
        program(&mut self.ebpf, PROGRAM)
    }

    /// Detaches from an interface that is no longer wanted.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn detach(&mut self, interface: &str) -> Result<()> {
        let Some(pins) = &self.pins else {
            bail!("interface {interface}: nothing is pinned");
        };
        let path = pins.link(interface);
        std::fs::remove_file(&path)
            .with_context(|| format!("{}: cannot be removed", path.display()))
    }

    /// Interfaces that the program is attached to by a pinned link.
    pub fn interfaces(&self) -> Vec<String> {
        self.pins.as_ref().map(Pins::interfaces).unwrap_or_default()
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?
        .try_into()
        .context("the program is not of type XDP")
}

/// Attaches a program by a bpf_link and by nothing else.
pub(super) fn attach_by_link(
    program: &mut Program,
    interface: &str,
    index: u32,
    generic: bool,
) -> Result<FdLink> {
    let mode = if generic {
        XdpMode::Skb
    } else {
        XdpMode::Driver
    };
    let id = program
        .attach_to_if_index(index, mode)
        .map_err(|error| explain_attach(interface, generic, error))?;
    // aya falls back to netlink silently, and such a program would not outlive us by a pin.
    FdLink::try_from(program.take_link(id)?).map_err(|_| {
        anyhow!("interface {interface}: this kernel cannot attach XDP by a bpf_link (Linux 5.9)")
    })
}

/// The index of an interface.
///
/// # Errors
/// If there is none of that name in this network namespace.
pub fn interface_index(name: &str) -> Result<u32> {
    let text = std::ffi::CString::new(name)?;
    // SAFETY: a string that ends with 0.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => bail!(
            "interface {name}: {}; `ip link` lists those that there are",
            io::Error::last_os_error()
        ),
        index => Ok(index),
    }
}

fn explain_attach(interface: &str, generic: bool, error: ProgramError) -> anyhow::Error {
    let errno = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let hint = match errno {
        Some(libc::EBUSY) | Some(libc::EEXIST) => {
            "another XDP program is attached; `bpftool net` names it"
        }
        Some(libc::EOPNOTSUPP) if !generic => {
            "its driver has no native XDP; set `xdp_mode = \"generic\"` to accept the slow one"
        }
        Some(libc::EPERM) => "this needs CAP_BPF and CAP_NET_ADMIN, or root",
        _ => "the kernel's message may be in `dmesg`",
    };
    anyhow!(error).context(format!("interface {interface}: cannot attach; {hint}"))
}
