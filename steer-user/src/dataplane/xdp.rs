//! The data path in the kernel: the programs loaded, and their maps made or taken up again.

use std::{num::NonZero, path::PathBuf, sync::Mutex, thread};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, ProgramArray},
    programs::Xdp as Program,
};
use steer_common::abi::{GATE, PROGRAMS, maps};

use super::{
    Attacher, MapMemory,
    gate::Gate,
    insist,
    kernel::check_kernel,
    kernel_maps::KernelMaps,
    memory_use::Meters,
    object::object,
    pin_lock::PinLock,
    pins::{self, Pins},
    place::place,
    record::Record,
    sizes::Sizes,
    specs::SPECS,
    takeover::Takeover,
    trace::Tracer,
};

/// Threads that load programs at a time: with more the largest program takes as long as all others.
const MAX_LOADERS: usize = 4;

/// Name of the program in the object.
pub(super) const PROGRAM: &str = "steer_main";

/// What to load, and where to keep it.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// A mounted bpffs, or a folder in one, below which maps and links are pinned. Without it all
    /// of it ends with this process.
    pub bpffs: Option<PathBuf>,
    /// Entries of the tables of flows.
    pub sizes: Sizes,
}

/// The loaded program with its maps.
pub struct Xdp {
    attacher: Attacher,
    maps: KernelMaps,
    adopted: bool,
    sizes: Sizes,
}

impl Xdp {
    /// Loads the program. Maps that are pinned are taken up after their shape was compared; those
    /// that are not are made and pinned. Flows of tables that have another size are copied to new ones,
    /// and entries of maps of another version of the ABI are converted.
    ///
    /// # Errors
    /// If the kernel is too old, another daemon uses the pins, a pinned map does not fit, `bpffs` is none, or the
    /// kernel refuses the program. What is attached stays as it is.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        check_kernel()?;
        let sizes = options.sizes;
        let mut pins = None;
        let mut lock = None;
        let mut adopted = false;
        let mut takeover = None;
        if let Some(bpffs) = &options.bpffs {
            // First of all, so that of two daemons the second changes nothing.
            lock = Some(PinLock::take(bpffs)?);
            let pins = pins.insert(place(bpffs, &sizes)?);
            pins.prepare()?;
            let begun = takeover.insert(Takeover::begin(pins, &sizes)?);
            adopted = begun.is_one();
            adopted |= SPECS.iter().any(|spec| pins.map(spec.name).exists());
            pins.check(&sizes)?;
        }
        let before = match &takeover {
            Some(takeover) => takeover.programs_before()?,
            None => None,
        };
        let mut programs = Programs::load(object(), pins.as_ref(), &sizes, before)?;
        if let Some(takeover) = &mut takeover {
            takeover.copy()?;
        }
        let gate = if takeover.as_ref().is_some_and(Takeover::is_one) {
            Some(Gate::of(&programs.ebpf)?)
        } else {
            None
        };
        if let Some(pins) = &pins {
            let mut first = vec![programs.main()?.info()?.id()];
            if gate.is_some() {
                programs.load_program(GATE)?;
                programs.first = GATE;
                first.push(programs.main()?.info()?.id());
            }
            Record::write(pins, &first)?;
        }
        let meters = Meters::of(&programs.ebpf)?;
        let maps = KernelMaps::new(&mut programs.ebpf)?;
        Ok(Self {
            attacher: Attacher::new(programs, meters, pins.zip(lock), sizes, (takeover, gate)),
            maps,
            adopted,
            sizes,
        })
    }

    /// Whether maps of an earlier run were taken up.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Entries of the tables of flows.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// As [`Attacher::attach`].
    ///
    /// # Errors
    /// As there.
    pub fn attach(&mut self, interface: &str, generic: bool) -> Result<()> {
        self.attacher.attach(interface, generic)
    }

    /// As [`Attacher::settle`].
    ///
    /// # Errors
    /// As there.
    pub fn settle(&mut self) -> Result<()> {
        self.attacher.settle()
    }

    /// As [`Attacher::interfaces`].
    pub fn interfaces(&self) -> Vec<String> {
        self.attacher.interfaces()
    }

    /// As [`Attacher::memory`].
    ///
    /// # Errors
    /// As there.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        self.attacher.memory()
    }

    /// The program, to run it on packets of a test.
    ///
    /// # Errors
    /// None, unless the object is not ours.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.attacher.program()
    }

    /// As [`Attacher::tracer`].
    ///
    /// # Errors
    /// As there.
    pub fn tracer(&mut self) -> Result<Tracer> {
        self.attacher.tracer()
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

/// The programs of an object over the maps, with an array of their own by which they hand packets to
/// each other: packets that come while others take their place meet one set of them only.
pub(super) struct Programs {
    pub(super) ebpf: Ebpf,
    /// Without a pin the kernel empties the array when nobody holds it.
    _array: ProgramArray<MapData>,
    /// Where it is pinned.
    pub(super) pin: Option<PathBuf>,
    /// Name of the program that every packet comes to first.
    pub(super) first: &'static str,
}

impl Programs {
    /// Loads them. Maps that are pinned are used, others made and pinned. With the place of other programs
    /// the gate can hand packets to those.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn load(
        object: &[u8],
        pins: Option<&Pins>,
        sizes: &Sizes,
        before: Option<PathBuf>,
    ) -> Result<Self> {
        let pin = pins.map(Pins::new_program_array);
        let loaded = Self::load_at(object, pins, sizes, (pin.clone(), before));
        if let (Err(_), Some(pin)) = (&loaded, pin.filter(|pin| pin.exists())) {
            pins::remove(&pin);
        }
        loaded
    }

    fn load_at(
        object: &[u8],
        pins: Option<&Pins>,
        sizes: &Sizes,
        (pin, before): (Option<PathBuf>, Option<PathBuf>),
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        // Of a refusal the kernel's reason, not each of the steps before it.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        if let (Some(pins), Some(before)) = (pins, before) {
            loader.map_pin_path(maps::BEFORE, before);
            loader.map_pin_path(maps::GATE, pins.map(maps::GATE));
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
        let mut ebpf = loader
            .load(object)
            .context("cannot load the maps; this needs CAP_BPF and CAP_NET_ADMIN, or root")?;
        let Some(Map::ProgramArray(data)) = ebpf.map(maps::PROGRAMS) else {
            return Err(anyhow!("the object has no array {}", maps::PROGRAMS));
        };
        // The object keeps its own, for who wants to see all maps.
        let fd = std::os::fd::AsFd::as_fd(data.fd()).try_clone_to_owned()?;
        let array = Map::ProgramArray(MapData::from_fd(fd)?);
        load_all(&mut ebpf)?;
        let mut array = ProgramArray::try_from(array)?;
        for (index, name) in (0..).zip(PROGRAMS) {
            array
                .set(index, program(&mut ebpf, name)?.fd()?, 0)
                .with_context(|| format!("cannot put the program {name} where others find it"))?;
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
    /// If the kernel refuses.
    pub(super) fn load_program(&mut self, name: &str) -> Result<&mut Program> {
        load(&mut self.ebpf, name)
    }

    /// The program that every packet comes to first.
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
    insist::load(|| program.load())
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
