//! Execution of the cases.

use std::{io, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp as Kind},
};
use steer_common::abi::{TraceFilter, bench::Run};
use steer_dataplane::{OpenOptions, Sizes, TracePrograms, Xdp, bench_object};
use steer_tests::bpffs::Bpffs;

use crate::{
    case::{self, Case, LEN, Program},
    cases::{self, bare, trace},
    report::Measured,
    scene::Scene,
};

/// Capacity of hash tables: the largest number of flows evicts none.
const CAPACITY: u32 = 1 << 21;
/// Interface of test runs: the loopback device.
const INTERFACE: u32 = 1;

/// Amount of measurement.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Packets per case and round.
    pub(crate) packets: u32,
    /// Number of rounds; in each of them all cases take turns.
    pub(crate) rounds: u32,
}

/// Measures cases at all numbers of flows.
pub(crate) fn run(cases: &[Case], flows: &[u32], effort: Effort) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for flows in flows.iter().copied() {
        ensure!(
            flows.is_power_of_two() && flows <= CAPACITY / 2,
            "{flows} flows: not a power of two, or more than {}",
            CAPACITY / 2
        );
        eprintln!("bench: {flows} flows");
        let mut open = Bench::new(flows, Some(CAPACITY))?;
        let mut unique = Bench::new(0, None)?;
        let mut raw = vec![Vec::new(); cases.len()];
        let mut ok = vec![1.0_f64; cases.len()];
        // The first round warms caches and fills tables, and does not count.
        for round in 0..=effort.rounds {
            for (index, case) in cases.iter().enumerate() {
                let (nanoseconds, share) = if case.unique {
                    unique.measure(case, u32::MAX, effort.packets)?
                } else {
                    open.measure(case, flows - 1, effort.packets)?
                };
                ok[index] = ok[index].min(share);
                if round > 0 {
                    raw[index].push(nanoseconds);
                }
            }
        }
        for values in &mut raw {
            values.sort_by(f64::total_cmp);
        }
        let median = |index: usize| raw[index][raw[index].len() / 2];
        for (index, case) in cases.iter().enumerate() {
            results.push(Measured {
                program: case.program.name(),
                case: case.name,
                flows,
                raw_ns: raw[index][0],
                net_ns: raw[index][0] - raw[0][0],
                median_ns: median(index) - median(0),
                ok_share: ok[index],
            });
        }
    }
    Ok(results)
}

struct Bench {
    programs: Ebpf,
    run: Array<MapData, Run>,
    table: ProgramArray<MapData>,
    steer: Xdp,
    /// Tracing copies, created on demand.
    tracing: Vec<(Program, TracePrograms)>,
    /// Pins of the maps, through which copies find them.
    _bpffs: Bpffs,
    /// Start of the next series of unique flows.
    next: u32,
}

impl Bench {
    /// Creates tables with a number of open flows, and with a given or the default capacity.
    fn new(flows: u32, capacity: Option<u32>) -> Result<Self> {
        let mut programs = EbpfLoader::new()
            .load(bench_object())
            .context("cannot load the benchmark's programs; it has to be run as root")?;
        let run = take(&mut programs, "RUN")?.try_into()?;
        let table = take(&mut programs, "PROGRAMS")?.try_into()?;
        // Held until the programs hold them.
        let mut lru = take(&mut programs, "BENCH_LRU")?.try_into()?;
        bare::fill_lru(&mut lru, flows)?;
        let mut lpm = take(&mut programs, "BENCH_LPM")?.try_into()?;
        bare::fill_lpm(&mut lpm)?;
        for name in Program::BARE.map(Program::name) {
            program(&mut programs, name)?.load()?;
        }
        program(&mut programs, "bench")?.load()?;
        let bpffs = Bpffs::mount()?;
        let mut steer = Xdp::open(&OpenOptions {
            sizes: capacity.map_or_else(Sizes::default, Sizes::of_each),
            bpffs: Some(bpffs.path().to_owned()),
        })?;
        cases::prepare(Scene::new(steer.maps(), INTERFACE, flows))?;
        Ok(Self {
            programs,
            run,
            table,
            steer,
            tracing: Vec::new(),
            _bpffs: bpffs,
            next: 0,
        })
    }

    /// Returns nanoseconds of CPU per packet, and the share of packets with the expected result.
    fn measure(&mut self, case: &Case, flow_mask: u32, packets: u32) -> Result<(f64, f64)> {
        if let Some(set) = case.setting {
            set(self.steer.maps(), true)?;
        }
        let result = self.series(case, flow_mask, packets);
        if let Some(set) = case.setting {
            set(self.steer.maps(), false)?;
        }
        result
    }

    /// Returns the entry program of a tracing copy with this filter.
    fn traced(&mut self, program: Program, filter: &TraceFilter) -> Result<ProgramFd> {
        if !self.tracing.iter().any(|(made, _)| *made == program) {
            let (copy, _) = self.steer.tracer()?.load(filter)?;
            self.tracing.push((program, copy));
        }
        let mut made = self.tracing.iter_mut();
        let (_, copy) = made
            .find(|(made, _)| *made == program)
            .context("the copy that was just made")?;
        Ok(copy.program()?.fd()?.try_clone()?)
    }

    fn series(&mut self, case: &Case, flow_mask: u32, packets: u32) -> Result<(f64, f64)> {
        let fd: ProgramFd = if case.program == Program::Steer {
            self.steer.program()?.fd()?.try_clone()?
        } else if let Some(filter) = trace::filter(case.program) {
            self.traced(case.program, &filter)?
        } else {
            program(&mut self.programs, case.program.name())?
                .fd()?
                .try_clone()?
        };
        self.table.set(0, &fd, 0)?;
        let template = case::template(case);
        let series = Run {
            flow_mask,
            first: self.next,
            ..series(case, &template)
        };
        self.next = self.next.wrapping_add(packets);
        self.run.set(0, series, 0)?;
        let mut out = [0; LEN + 128];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&template);
        options.data_out = Some(&mut out);
        options.repeat = packets;
        let wrapper = program(&mut self.programs, "bench")?;
        // Of this thread only, so that other work on the machine does not count.
        let start = cpu_time()?;
        let result = wrapper.test_run(options)?;
        let spent = cpu_time()?.saturating_sub(start);
        ensure!(
            result.return_value == case.action,
            "{}: the program returned {} and not {}",
            case.name,
            result.return_value,
            case.action
        );
        let run = self.run.get(&0, 0)?;
        // The first packet is checked before anything was done to it.
        let share = run.good as f64 / (run.runs - 1) as f64;
        Ok((spent.as_nanos() as f64 / f64::from(packets), share.min(1.0)))
    }
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the result.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(done == 0, io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Returns the parameters of the programs for a series of packets.
pub(crate) fn series(case: &Case, template: &[u8; LEN]) -> Run {
    let mut run = Run {
        len: LEN as u32,
        growth: case.growth,
        check_at: case.check.0,
        change: u32::from(case.check.1),
        ..Run::default()
    };
    let at = case.check.0 as usize;
    let mut check = [0; 4];
    check.copy_from_slice(&template[at..at + 4]);
    run.check = u32::from_ne_bytes(check);
    for (word, bytes) in run.template.iter_mut().zip(template.chunks_exact(8)) {
        let mut chunk = [0; 8];
        chunk.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(chunk);
    }
    run
}

pub(crate) fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .ok_or_else(|| anyhow!("the object has no map {name}"))
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Kind> {
    Ok(ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?
        .try_into()?)
}
