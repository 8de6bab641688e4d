//! The data path in the kernel: loads the programs, and creates or reuses their maps.

use std::{num::NonZero, path::PathBuf, sync::Mutex, thread};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, ProgramArray},
    programs::Xdp as Program,
};
use steer_common::{
    abi::{CUTOVER_PROGRAM, PROGRAMS, maps},
    data_path_log::LogLevel,
};

use super::{
    Attacher, MapMemory,
    kernel::check_kernel,
    kernel_maps::KernelMaps,
    map_memory::MemoryMeters,
    object::{object, trace_object},
    pin_lock::PinLock,
    pins::{self, Pins},
    retry,
    sizes::Sizes,
    specs::SPECS,
    trace::Tracer,
    upgrade::{Cutover, LayoutRecord, Upgrade, active_pins},
};

/// Threads that load programs at a time: with more the largest program takes as long as all others.
const MAX_LOADERS: usize = 4;

/// Name of the program in the object.
pub(super) const PROGRAM: &str = "steer_main";

/// Options for loading.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// A mounted bpffs, or a folder in one, for pins of maps and links. Without it, everything ends
    /// with this process.
    pub bpffs: Option<PathBuf>,
    /// Sizes of the flow tables.
    pub sizes: Sizes,
}

/// Loaded program with its maps.
pub struct Xdp {
    pub(super) attacher: Attacher,
    pub(super) maps: KernelMaps,
    adopted: bool,
    sizes: Sizes,
}

impl Xdp {
    /// Loads the program. Pinned maps are reused after a check of their shape; missing ones are
    /// created and pinned. Flows of tables with another size are copied to new tables, and entries
    /// of maps of another ABI version are converted.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel is too old, another daemon uses the pins, a pinned map does
    /// not fit, `bpffs` is not a BPF file system, or the kernel refuses the program. Attached
    /// programs stay unchanged then.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        check_kernel()?;
        let sizes = options.sizes;
        let mut pins = None;
        let mut lock = None;
        let mut adopted = false;
        let mut takeover = None;
        if let Some(bpffs) = &options.bpffs {
            // The lock comes first, so that a second daemon changes nothing.
            lock = Some(PinLock::acquire(bpffs)?);
            let pins = pins.insert(active_pins(bpffs, &sizes)?);
            pins.prepare()?;
            let begun = takeover.insert(Upgrade::prepare(pins, &sizes)?);
            adopted = begun.is_needed();
            adopted |= SPECS.iter().any(|spec| pins.map(spec.name).exists());
            pins.check(&sizes)?;
        }
        let before = match &takeover {
            Some(takeover) => takeover.old_programs()?,
            None => None,
        };
        let mut programs = Programs::load(Object::Usual, pins.as_ref(), &sizes, before)?;
        if let Some(takeover) = &mut takeover {
            takeover.copy()?;
        }
        let gate = if takeover.as_ref().is_some_and(Upgrade::is_needed) {
            Some(Cutover::open(&programs.ebpf)?)
        } else {
            None
        };
        if let Some(pins) = &pins {
            let mut first = vec![programs.main()?.info()?.id()];
            if gate.is_some() {
                programs.load_program(CUTOVER_PROGRAM)?;
                programs.first = CUTOVER_PROGRAM;
                first.push(programs.main()?.info()?.id());
            }
            LayoutRecord::write(pins, &first)?;
        }
        let meters = MemoryMeters::open(&programs.ebpf)?;
        let maps = KernelMaps::new(&mut programs.ebpf)?;
        Ok(Self {
            attacher: Attacher::new(programs, meters, pins.zip(lock), sizes, (takeover, gate)),
            maps,
            adopted,
            sizes,
        })
    }

    /// Returns whether maps of an earlier run were reused.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Returns the sizes of the flow tables.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Works like [`Attacher::attach`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn attach(&mut self, interface: &str, generic: bool) -> Result<()> {
        self.attacher.attach(interface, generic)
    }

    /// Works like [`Attacher::settle`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn settle(&mut self) -> Result<()> {
        self.attacher.settle()
    }

    /// Works like [`Attacher::interfaces`].
    pub fn interfaces(&self) -> Vec<String> {
        self.attacher.interfaces()
    }

    /// Works like [`Attacher::memory`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        self.attacher.memory()
    }

    /// Returns the program, to run it on test packets.
    ///
    /// # Errors
    ///
    /// Returns an error only for an object of another build.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.attacher.program()
    }

    /// Works like [`Attacher::tracer`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn tracer(&mut self) -> Result<Tracer> {
        self.attacher.tracer()
    }

    /// Returns the maps.
    pub fn maps(&mut self) -> &mut KernelMaps {
        &mut self.maps
    }

    /// Splits this value into the program and the maps.
    pub fn into_parts(self) -> (Attacher, KernelMaps) {
        (self.attacher, self.maps)
    }
}

/// Object with programs.
#[derive(Clone, Copy)]
pub(super) enum Object {
    /// The usual programs.
    Usual,
    /// Their tracing copy, which records drops up to this level.
    Trace(LogLevel),
}

/// Programs of an object over the maps, with a tail-call array of their own: a packet that arrives
/// while programs are replaced meets only one set of them.
pub(super) struct Programs {
    pub(super) ebpf: Ebpf,
    /// Tail-call array. Without a pin, the kernel empties it when its last handle is closed.
    _array: ProgramArray<MapData>,
    /// Path of its pin.
    pub(super) pin: Option<PathBuf>,
    /// Name of the entry program.
    pub(super) first: &'static str,
}

impl Programs {
    /// Loads the programs. Pinned maps are used, others are created and pinned. With the pin of
    /// other programs, the gate can send packets to those.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub(super) fn load(
        copy: Object,
        pins: Option<&Pins>,
        sizes: &Sizes,
        before: Option<PathBuf>,
    ) -> Result<Self> {
        let pin = pins.map(Pins::new_program_array);
        let loaded = Self::load_at(copy, pins, sizes, (pin.clone(), before));
        if let (Err(_), Some(pin)) = (&loaded, pin.filter(|pin| pin.exists())) {
            pins::remove(&pin);
        }
        loaded
    }

    fn load_at(
        copy: Object,
        pins: Option<&Pins>,
        sizes: &Sizes,
        (pin, before): (Option<PathBuf>, Option<PathBuf>),
    ) -> Result<Self> {
        let level;
        let mut loader = EbpfLoader::new();
        // If the verifier refuses, log the kernel's reason and not every step before it.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        if let (Some(pins), Some(before)) = (pins, before) {
            loader.map_pin_path(maps::OLD_PROGRAMS, before);
            loader.map_pin_path(maps::CUTOVER, pins.map(maps::CUTOVER));
        }
        for spec in &SPECS {
            if let Some(entries) = sizes.entries(spec.name) {
                loader.map_max_entries(spec.name, entries);
            }
            if let (Some(pins), Some(pin)) = (pins, &pin) {
                let is_array = spec.name == maps::PROGRAMS;
                let path = if is_array {
                    pin.clone()
                } else {
                    pins.map(spec.name)
                };
                loader.map_pin_path(spec.name, path);
            }
        }
        let bytes = match copy {
            Object::Usual => object(),
            Object::Trace(wanted) => {
                level = wanted as u8;
                loader.override_global(aya_log::LEVEL, &level, true);
                trace_object()
            }
        };
        let mut ebpf = loader
            .load(bytes)
            .context("cannot load the maps; this needs CAP_BPF and CAP_NET_ADMIN, or root")?;
        let Some(Map::ProgramArray(data)) = ebpf.map(maps::PROGRAMS) else {
            return Err(anyhow!("the object has no array {}", maps::PROGRAMS));
        };
        // The object keeps its own handle, for callers that list all maps.
        let fd = std::os::fd::AsFd::as_fd(data.fd()).try_clone_to_owned()?;
        let array = Map::ProgramArray(MapData::from_fd(fd)?);
        load_all(&mut ebpf)?;
        let mut array = ProgramArray::try_from(array)?;
        for (index, name) in (0..).zip(PROGRAMS) {
            array
                .set(index, program(&mut ebpf, name)?.fd()?, 0)
                .with_context(|| format!("cannot add the program {name} to the tail-call array"))?;
        }
        Ok(Self {
            ebpf,
            _array: array,
            pin,
            first: PROGRAM,
        })
    }

    /// Loads one more program of the object.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub(super) fn load_program(&mut self, name: &str) -> Result<&mut Program> {
        load(&mut self.ebpf, name)
    }

    /// Returns the entry program.
    pub(super) fn main(&mut self) -> Result<&mut Program> {
        program(&mut self.ebpf, self.first)
    }
}

/// Loads all programs of the data path, on several CPUs: the kernel verifies a program in the thread that loads it, which
/// is most of a start.
fn load_all(ebpf: &mut Ebpf) -> Result<()> {
    let mut programs = Vec::with_capacity(PROGRAMS.len());
    for (name, program) in ebpf.programs_mut() {
        if PROGRAMS.contains(&name) {
            programs.push((name, xdp(program)?));
        }
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().ok()?.next();
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..threads.min(MAX_LOADERS))
            .map(|_| {
                scope.spawn(|| {
                    while let Some((name, program)) = next() {
                        verify(name, program)?;
                    }
                    Ok(())
                })
            })
            .collect();
        loaders
            .into_iter()
            .try_for_each(|loader| loader.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

fn load<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Program> {
    let program = program(ebpf, name)?;
    verify(name, program)?;
    Ok(program)
}

fn verify(name: &str, program: &mut Program) -> Result<()> {
    retry::load(|| program.load())
        .with_context(|| format!("the kernel refuses the XDP program {name}"))
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))
        .and_then(xdp)
}

fn xdp(program: &mut aya::programs::Program) -> Result<&mut Program> {
    program.try_into().context("the program is not of type XDP")
}
