//! Attachment of the XDP program to interfaces.

use std::{fs, io, os::fd::BorrowedFd, path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{
    ProgramError, Xdp as Program, XdpMode as AttachMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};
use steer_common::abi::maps;
use steer_core::dataplane::AttachedMode;
use tracing::{info, warn};

use super::{
    MapMemory,
    device::Device,
    map_memory::MemoryMeters,
    pin_lock::PinLock,
    pinned_link,
    pins::{self, Pins},
    sizes::Sizes,
    specs::SPECS,
    trace::{TracePrograms, Tracer},
    upgrade::{Cutover, LayoutRecord, Upgrade},
    xdp::{PROGRAM, Programs},
};

/// Upper bound of the time that a packet spends in replaced programs.
const GRACE: Duration = Duration::from_millis(10);

/// Loaded program, for attachment to interfaces.
pub struct Attacher {
    programs: Programs,
    meters: MemoryMeters,
    pins: Option<Pins>,
    /// Lock that keeps other daemons off the pins.
    lock: Option<PinLock>,
    sizes: Sizes,
    takeover: Option<Upgrade>,
    /// Gate attached in place of the usual programs during a takeover from another version.
    gate: Option<Cutover>,
    /// Programs attached in place of the usual ones while a trace runs.
    tracing: Option<TracePrograms>,
}

impl Attacher {
    pub(super) fn new(
        programs: Programs,
        meters: MemoryMeters,
        pins: Option<(Pins, PinLock)>,
        sizes: Sizes,
        (takeover, gate): (Option<Upgrade>, Option<Cutover>),
    ) -> Self {
        let (pins, lock) = pins.unzip();
        Self {
            programs,
            meters,
            pins,
            lock,
            sizes,
            takeover,
            gate,
            tracing: None,
        }
    }

    /// Attaches the program to an interface by a pinned bpf_link. If a link is pinned already, the
    /// program behind it is replaced without missing a packet, unless the attach mode changes.
    ///
    /// # Errors
    ///
    /// Returns an error if the interface does not exist, its driver has no XDP (with `generic`
    /// unset), or another program is attached.
    pub fn attach(&mut self, interface: &str, generic: bool) -> Result<()> {
        let device = Device::find(interface)?;
        if let Some(why) = device.refusal(interface, generic) {
            bail!("interface {interface}: {why}");
        }
        let pin = self.pins.as_ref().map(|pins| pins.link(interface));
        let found = self
            .pins
            .as_ref()
            .and_then(|pins| pins.found_link(interface));
        let program = match &mut self.tracing {
            Some(tracing) => tracing.program()?,
            None => self.programs.main()?,
        };
        if let (Some(path), Some(pin)) = (&found, &pin) {
            let is_there = pinned_link::interface(path)? == Some(device.index);
            let wanted = if generic {
                AttachedMode::Generic
            } else {
                AttachedMode::Native
            };
            let mode = device.program.map(|program| program.mode);
            if is_there && mode == Some(wanted) {
                replace(program, path).with_context(|| {
                    format!("interface {interface}: cannot replace the program")
                })?;
                if self.gate.is_none() {
                    make_own(path, pin)?;
                }
                return Ok(());
            }
            // The link's interface is gone, or the link has the other attach mode.
            let attached = match mode {
                None => "nowhere",
                Some(AttachedMode::Native) => "native",
                Some(AttachedMode::Generic) => "generic",
                Some(AttachedMode::Other) => "other",
            };
            info!(interface, attached, "attaching again");
            pinned_link::detach(path)?;
        }
        let link = attach_by_link(program, interface, device.index, generic)?;
        match pin {
            Some(path) => {
                // The pin holds the link, so this process need not.
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

    /// Returns whether the program is attached to the interface that currently has this name, which
    /// may be a different one than at attach time. `None` if there is no such interface.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub fn is_attached(&self, interface: &str) -> Result<Option<bool>> {
        let Ok(index) = interface_index(interface) else {
            return Ok(None);
        };
        let pin = self
            .pins
            .as_ref()
            .and_then(|pins| pins.found_link(interface));
        let Some(pin) = pin else {
            return Ok(Some(false));
        };
        Ok(Some(pinned_link::interface(&pin)? == Some(index)))
    }

    /// Restores removed pins: the maps and the layout record. Links end with their pins and must be
    /// attached again. Returns the number of missing maps.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be created, another daemon uses it, or the kernel
    /// refuses.
    pub fn repin(&mut self) -> Result<usize> {
        let Some(pins) = &self.pins else {
            return Ok(0);
        };
        let programs = self.programs.pin.clone();
        let missing: Vec<_> = SPECS
            .iter()
            .map(|spec| match &programs {
                Some(pin) if spec.name == maps::PROGRAMS => (spec.name, pin.clone()),
                _ => (spec.name, pins.map(spec.name)),
            })
            .filter(|(_, path)| !path.exists())
            .collect();
        let has_record = pins.map(maps::LAYOUT).exists();
        if missing.is_empty() && has_record {
            return Ok(0);
        }
        if let Some(bpffs) = pins.bpffs()
            && !self.lock.as_ref().is_some_and(PinLock::is_current)
        {
            self.lock = Some(PinLock::acquire(bpffs)?);
        }
        pins.prepare()?;
        for (name, path) in &missing {
            let map = self.meters.map(name)?;
            pinned_link::pin(map, path)?;
        }
        if !has_record {
            LayoutRecord::write(pins, &[self.programs.main()?.info()?.id()])?;
        }
        Ok(missing.len() + usize::from(!has_record))
    }

    /// Completes a takeover once the program is attached to all interfaces: copies the last flows
    /// of the previous programs, and removes what only those used.
    ///
    /// # Errors
    ///
    /// Returns an error if the takeover fails; the previous programs continue.
    pub fn settle(&mut self) -> Result<()> {
        if self.pins.is_none() {
            return Ok(());
        }
        if let (Some(takeover), Some(gate)) = (&mut self.takeover, &self.gate) {
            takeover.cut_over(gate)?;
            self.gate = None;
            self.programs.first = PROGRAM;
            self.replace_all()?;
        }
        // Packets inside the previous programs have left them by now.
        thread::sleep(GRACE);
        if let Some(takeover) = self.takeover.take() {
            takeover.clean();
        }
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        for (_, path) in pins.program_arrays() {
            let tracing = self.tracing.as_ref().and_then(|t| t.programs.pin.as_ref());
            if self.programs.pin.as_ref() != Some(&path) && tracing != Some(&path) {
                pins::remove(&path);
            }
        }
        Ok(())
    }

    /// Returns the main program, to run it on test packets.
    ///
    /// # Errors
    ///
    /// Returns an error only for an object of another build.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.programs.main()
    }

    /// Returns the loader of the tracing copy of the programs.
    ///
    /// # Errors
    ///
    /// Returns an error without a pin folder, through which it finds the maps.
    pub fn tracer(&mut self) -> Result<Tracer> {
        let pins = self.pins.clone();
        Ok(Tracer {
            pins: pins.context("tracing needs pins")?,
            sizes: self.sizes,
            usual: self.programs.main()?.fd()?.try_clone()?,
        })
    }

    /// Replaces the usual programs by the tracing copy, without missing a packet.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses; the usual programs are restored then.
    pub fn trace(&mut self, mut programs: TracePrograms) -> Result<()> {
        if let Some(pins) = &self.pins {
            LayoutRecord::write(pins, &[programs.program()?.info()?.id()])?;
        }
        self.tracing = Some(programs);
        let done = self.replace_all();
        if done.is_err() {
            self.end_trace();
        }
        done
    }

    /// Restores the usual programs.
    pub fn end_trace(&mut self) {
        let Some(tracing) = self.tracing.take() else {
            return;
        };
        // A tracing program that stays emits events nobody reads; the next start of a daemon
        // replaces it at the latest.
        if let Err(error) = self.replace_all() {
            warn!(
                error = format!("{error:#}"),
                "the tracing programs stay attached"
            );
            return;
        }
        thread::sleep(GRACE);
        if let Some(pin) = &tracing.programs.pin {
            pins::remove(pin);
        }
    }

    fn replace_all(&mut self) -> Result<()> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let program = match &mut self.tracing {
            Some(tracing) => tracing.program()?,
            None => self.programs.main()?,
        };
        for interface in pins.interfaces() {
            let pin = pins.link(&interface);
            let path = pins.found_link(&interface).unwrap_or_else(|| pin.clone());
            // An interface that is gone gets the program when it returns.
            if pinned_link::interface(&path)?.is_some() {
                replace(program, &path).with_context(|| {
                    format!("interface {interface}: cannot replace the program")
                })?;
                make_own(&path, &pin)?;
            }
        }
        Ok(())
    }

    /// Names and descriptors of all maps.
    pub(super) fn map_fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.meters.fds()
    }

    /// Memory of each map, as the kernel counts it.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        self.meters.read()
    }

    /// Detaches from an interface that is no longer configured.
    ///
    /// # Errors
    ///
    /// Returns an error if the pin cannot be removed.
    pub fn detach(&mut self, interface: &str) -> Result<()> {
        let Some(pins) = &self.pins else {
            bail!("interface {interface}: nothing is pinned");
        };
        let link = pins
            .found_link(interface)
            .unwrap_or_else(|| pins.link(interface));
        pinned_link::detach(&link)
    }

    /// Returns the interfaces to which the program is attached by a pinned link.
    pub fn interfaces(&self) -> Vec<String> {
        self.pins.as_ref().map(Pins::interfaces).unwrap_or_default()
    }
}

/// Moves the pin of another version's link to this version.
fn make_own(path: &Path, pin: &Path) -> Result<()> {
    if path != pin {
        fs::rename(path, pin)
            .with_context(|| format!("{}: cannot become {}", path.display(), pin.display()))?;
    }
    Ok(())
}

/// Replaces the program behind a pinned link atomically.
fn replace(program: &mut Program, pin: &Path) -> Result<()> {
    let link = PinnedLink::from_pin(pin)
        .with_context(|| format!("{}: cannot open the link", pin.display()))?;
    let link = XdpLink::try_from(FdLink::from(link))
        .with_context(|| format!("{}: not a link of XDP", pin.display()))?;
    let id = program.attach_to_link(link)?;
    // The pin holds the link, so this process need not.
    drop(program.take_link(id)?);
    Ok(())
}

/// Attaches a program by a bpf_link, never by netlink.
pub(super) fn attach_by_link(
    program: &mut Program,
    interface: &str,
    index: u32,
    generic: bool,
) -> Result<FdLink> {
    let mode = if generic {
        AttachMode::Skb
    } else {
        AttachMode::Driver
    };
    let id = program
        .attach_to_if_index(index, mode)
        .map_err(|error| explain(interface, generic, error))?;
    // aya falls back to netlink silently, and a program attached so cannot be pinned to outlive
    // this process.
    FdLink::try_from(program.take_link(id)?).map_err(|_| {
        anyhow!("interface {interface}: this kernel cannot attach XDP by a bpf_link (Linux 5.9)")
    })
}

/// Returns the index of an interface.
///
/// # Errors
///
/// Returns an error if this network namespace has no interface of that name.
pub fn interface_index(name: &str) -> Result<u32> {
    let text = std::ffi::CString::new(name)?;
    // SAFETY: the string is NUL-terminated.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => bail!(
            "interface {name}: {}; `ip link` lists all interfaces",
            io::Error::last_os_error()
        ),
        index => Ok(index),
    }
}

fn explain(interface: &str, generic: bool, error: ProgramError) -> anyhow::Error {
    let errno = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let hint = match errno {
        Some(libc::EBUSY) | Some(libc::EEXIST) => taken(interface),
        Some(libc::EOPNOTSUPP) if !generic => {
            "its driver has no native XDP; set `xdp_mode = \"generic\"` to accept slow generic XDP"
                .to_owned()
        }
        Some(libc::EPERM) => "this needs CAP_BPF and CAP_NET_ADMIN, or root".to_owned(),
        _ => "the kernel's message may be in `dmesg`; native XDP needs an MTU of at most about \
              3500, and large receive offload off"
            .to_owned(),
    };
    anyhow!(error).context(format!("interface {interface}: cannot attach; {hint}"))
}

/// Returns a message that names the program already attached.
fn taken(interface: &str) -> String {
    let found = Device::find(interface)
        .inspect_err(|error| warn!(interface, error = format!("{error:#}"), "cannot be asked"));
    let Some(program) = found.ok().and_then(|device| device.program) else {
        return "another XDP program is attached; `bpftool net` names it".to_owned();
    };
    // Only root may ask for program names.
    let name = loaded_programs()
        .flatten()
        .find(|info| info.id() == program.id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .map_or(String::new(), |name| format!(", {name:?}"));
    let mode = match program.mode {
        AttachedMode::Native => "native",
        AttachedMode::Generic => "generic",
        AttachedMode::Other => "another",
    };
    format!(
        "another XDP program is attached, in {mode} mode: id {}{name}. An interface has one \
         program. Detach the other one by `ip link set dev {interface} xdp off`, or end the \
         process that holds its link (`bpftool link`)",
        program.id
    )
}
