//! Packets per second over a pair of virtual Ethernet devices: a generator on one end
//! (BPF_PROG_TEST_RUN with live frames, Linux 5.18), a program on the other end that sends them
//! back, and a sink at the source. Everything runs on one CPU, so that each packet pays for its
//! complete path.

use std::{
    io, mem, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp as Kind, XdpMode, links::FdLink, xdp::XdpLinkId},
};
use steer_common::abi::bench::{Run, WINDOW};
use steer_dataplane::{OpenOptions, Sizes, Xdp, bench_object, interface_index};
use steer_tests::{
    netns::Namespace,
    veth::{End, Veth},
};

use crate::{
    case::{self, Case, LEN, Program},
    cases,
    measure::{program, series, take},
    scene::Scene,
};

const WIRE: &str = "wire";
/// Number of flows of the packets.
const FLOWS: u32 = 1 << 16;
/// Time after which missing packets count as lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Frames per batch, like a driver's poll.
const BATCH: u32 = 64;
/// Goal: share of the packets of a bare program that does the same by XDP_TX.
const GOAL: f64 = 0.8;
/// Indexes of cases and of their baselines.
const GOALS: [(usize, usize); 2] = [(2, 0), (3, 1)];

/// Measures, prints a table, and compares it with the goal.
pub(crate) fn run(packets: u32, rounds: u32) -> Result<()> {
    ensure!(
        u64::from(packets) > 2 * WINDOW,
        "--packets {packets}: has to be more than {}",
        2 * WINDOW
    );
    let all = cases::all();
    let find = |name: &str| {
        let found = all.iter().find(|case| case.name == name);
        found.copied().with_context(|| format!("no case {name}"))
    };
    let cases = [
        find("bare MAC swap")?,
        find("bare IPIP encap")?,
        find("l2 open")?,
        find("ipip open")?,
        find("ipip new")?,
    ];
    let mut wire = Wire::new()?;
    let mut best = [0.0_f64; 5];
    // The first round warms caches, and does not count.
    for round in 0..=rounds {
        for (best, case) in best.iter_mut().zip(&cases) {
            let rate = wire.rate(case, packets)?;
            if round > 0 {
                *best = best.max(rate);
            }
        }
    }
    println!(
        "{:<24}{:>16}{:>16}{:>16}",
        "over a wire, on one CPU", "M packets/s", "ns a packet", "of MAC swap"
    );
    for (rate, case) in best.iter().zip(&cases) {
        println!(
            "{:<24}{:>16.2}{:>16.1}{:>16.2}",
            case.name,
            rate / 1e6,
            1e9 / rate,
            rate / best[0]
        );
    }
    println!();
    let mut missed = Vec::new();
    for (case, bare) in GOALS {
        let share = best[case] / best[bare];
        let goal = format!(
            "{} >= {GOAL} x {} over a wire: {share:.2}",
            cases[case].name, cases[bare].name
        );
        if share < GOAL {
            missed.push(goal);
        } else {
            println!("{goal}, met");
        }
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

struct Wire {
    generator: Namespace,
    node: Namespace,
    programs: Ebpf,
    run: Array<MapData, Run>,
    sunk: PerCpuArray<MapData, u64>,
    index: u32,
    steer: Xdp,
    _sink: FdLink,
}

impl Wire {
    fn new() -> Result<Self> {
        let [generator, node] = [Namespace::create("generator")?, Namespace::create("node")?];
        let end = |namespace, mac| End {
            namespace,
            name: WIRE,
            mac,
            addresses: &[],
            gro: false,
        };
        Veth::between(
            end(&generator, "02:02:00:00:00:02"),
            end(&node, "02:01:00:00:00:01"),
        )?;
        let mut programs = EbpfLoader::new().load(bench_object())?;
        let run = take(&mut programs, "RUN")?.try_into()?;
        let sunk = take(&mut programs, "SUNK")?.try_into()?;
        for name in ["generate", "sink", "swap", "encap"] {
            program(&mut programs, name)?.load()?;
        }
        let (index, sink) = generator.enter(|| -> Result<_> {
            let index = interface_index(WIRE)?;
            Ok((index, attach(program(&mut programs, "sink")?, index)?))
        })??;
        let steer = node.enter(|| -> Result<_> {
            let mut steer = Xdp::open(&OpenOptions {
                sizes: Sizes::of_each(FLOWS * 2),
                ..OpenOptions::default()
            })?;
            let index = interface_index(WIRE)?;
            cases::prepare(Scene::new(steer.maps(), index, FLOWS))?;
            Ok(steer)
        })??;
        Ok(Self {
            generator,
            node,
            programs,
            run,
            sunk,
            index,
            steer,
            _sink: sink,
        })
    }

    /// Returns the packets per second that came back as the case expects.
    fn rate(&mut self, case: &Case, packets: u32) -> Result<f64> {
        let template = case::template(case);
        let series = Run {
            flow_mask: FLOWS - 1,
            ..series(case, &template)
        };
        self.run.set(0, series, 0)?;
        let (programs, steer) = (&mut self.programs, &mut self.steer);
        let _link = self.node.enter(|| {
            let index = interface_index(WIRE)?;
            match case.program {
                Program::Steer => attach(steer.program()?, index),
                bare => attach(program(programs, bare.name())?, index),
            }
        })??;
        let before = self.sunk()?;
        let index = self.index;
        let programs = &mut self.programs;
        self.generator.enter(|| -> Result<_> {
            stay_on_this_cpu()?;
            let mut options = TestRunOptions::new();
            let context = context(index);
            options.data_in = Some(&template);
            options.ctx_in = Some(&context);
            options.repeat = packets;
            options.attrs = options.attrs.xdp_live_frames(BATCH);
            program(programs, "generate")?.test_run(options)?;
            Ok(())
        })??;
        let back = self.settled(before, packets)?;
        // If packets were not sent back before the next ones are made, some would find a full ring.
        ensure!(
            back == u64::from(packets),
            "{}: {back} of {packets} packets came back",
            case.name
        );
        Ok(WINDOW as f64 * 1e9 / self.run.get(&0, 0)?.window as f64)
    }

    /// Returns the number of packets back, once all are back or no more arrive.
    fn settled(&self, before: u64, packets: u32) -> Result<u64> {
        let (mut back, mut since) = (0, Instant::now());
        while back < u64::from(packets) && since.elapsed() < PATIENCE {
            let now = self.sunk()? - before;
            if now > back {
                (back, since) = (now, Instant::now());
            }
            thread::yield_now();
        }
        Ok(back)
    }

    fn sunk(&self) -> Result<u64> {
        Ok(self.sunk.get(&0, 0)?.iter().sum())
    }
}

/// Attaches a program while the result lives.
fn attach(program: &mut Kind, index: u32) -> Result<FdLink> {
    let id: XdpLinkId = program.attach_to_if_index(index, XdpMode::Driver)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Returns the `struct xdp_md` (linux/bpf.h) of a packet from an interface.
fn context(interface: u32) -> Vec<u8> {
    let fields = [0, LEN as u32, 0, interface, 0, 0];
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: sched_getcpu has no preconditions; the set is plain bits, of which zeros are an empty one.
    let done = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().cast_unsigned() as usize, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set)
    };
    ensure!(done == 0, io::Error::last_os_error());
    Ok(())
}
