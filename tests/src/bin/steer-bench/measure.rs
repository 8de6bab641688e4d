//! Running the cases.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp as Program},
};
use steer_common::abi::{FlowEntry, FlowKey, bench::Run};
use steer_user::dataplane::{OpenOptions, Xdp, bench_object};

use crate::{
    cases::{self, CASES, Case, LEN},
    report::Measured,
};

/// Entries of hash tables: enough that the largest number of flows evicts none.
const CAPACITY: u32 = 1 << 21;
/// The interface of test runs: the loopback device.
const INTERFACE: u32 = 1;

/// Measures all cases at all numbers of flows.
pub(crate) fn run(flows: &[u32], packets: u32, rounds: u32) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for flows in flows.iter().copied() {
        ensure!(
            flows.is_power_of_two() && flows <= CAPACITY / 2,
            "{flows} flows: not a power of two, or more than {}",
            CAPACITY / 2
        );
        eprintln!("bench: {flows} flows");
        let mut bench = Bench::new(flows)?;
        let mut raw = vec![Vec::new(); CASES.len()];
        let mut ok = vec![1.0_f64; CASES.len()];
        // The first round warms caches and frequency up, and does not count.
        for round in 0..=rounds {
            for (index, case) in CASES.iter().enumerate() {
                let (nanoseconds, share) = bench.measure(case, flows, packets)?;
                ok[index] = ok[index].min(share);
                if round > 0 {
                    raw[index].push(nanoseconds);
                }
            }
        }
        let median: Vec<f64> = raw.into_iter().map(median).collect();
        for (index, case) in CASES.iter().enumerate() {
            results.push(Measured {
                program: case.program.name(),
                case: case.name,
                flows,
                raw_ns: median[index],
                net_ns: median[index] - median[0],
                ok_share: ok[index],
            });
        }
    }
    Ok(results)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    programs: Ebpf,
    run: Array<MapData, Run>,
    table: ProgramArray<MapData>,
    steer: Xdp,
}

impl Bench {
    fn new(flows: u32) -> Result<Self> {
        let mut programs = EbpfLoader::new()
            .load(bench_object())
            .context("cannot load the benchmark's programs; it has to be run as root")?;
        let run = take(&mut programs, "RUN")?.try_into()?;
        let table = take(&mut programs, "PROGRAMS")?.try_into()?;
        let mut lru: HashMap<_, FlowKey, FlowEntry> =
            take(&mut programs, "BENCH_LRU")?.try_into()?;
        cases::fill_lru(&mut lru, flows)?;
        for name in ["bench", "null", "swap", "encap", "lru"] {
            program(&mut programs, name)?.load()?;
        }
        let mut steer = Xdp::open(&OpenOptions {
            flows: Some(CAPACITY),
            ..OpenOptions::default()
        })?;
        cases::prepare(steer.maps(), INTERFACE)?;
        cases::fill_nat(steer.maps(), flows, INTERFACE)?;
        Ok(Self {
            programs,
            run,
            table,
            steer,
        })
    }

    /// Nanoseconds a packet, and the share of packets to which happened what should.
    fn measure(&mut self, case: &Case, flows: u32, packets: u32) -> Result<(f64, f64)> {
        let fd: ProgramFd = if case.program == cases::Program::Steer {
            self.steer.program()?.fd()?.try_clone()?
        } else {
            program(&mut self.programs, case.program.name())?
                .fd()?
                .try_clone()?
        };
        self.table.set(0, &fd, 0)?;
        let template = cases::template(case);
        self.run.set(0, series(case, &template, flows), 0)?;
        let mut out = [0; LEN + 128];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&template);
        options.data_out = Some(&mut out);
        options.repeat = packets;
        let wrapper = program(&mut self.programs, "bench")?;
        let start = Instant::now();
        let result = wrapper.test_run(options)?;
        let elapsed = start.elapsed();
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
        Ok((
            elapsed.as_nanos() as f64 / f64::from(packets),
            share.min(1.0),
        ))
    }
}

fn series(case: &Case, template: &[u8; LEN], flows: u32) -> Run {
    let mut run = Run {
        len: LEN as u32,
        flow_mask: flows - 1,
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

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .ok_or_else(|| anyhow!("the object has no map {name}"))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    Ok(ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?
        .try_into()?)
}
