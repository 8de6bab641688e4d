//! Stability of flows under changes of other backends and SYN floods.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp as Program},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::{
    abi::{
        Macs, Slot,
        bench::{Run, WORDS},
    },
    tables::NextHop,
};
use steer_core::{
    config::Config,
    control::{Controller, Drain},
    dataplane::SteeringTables as _,
};
use steer_dataplane::{Attacher, KernelMaps, OpenOptions, Sizes, Xdp, bench_object};
use steer_probe::probe::{Load, Measurement, OrcaLoadReport, ProbeFailure, Sample};
use steer_tests::packet::{ACK, NODE_MAC, SYN, TestPacket};

use crate::{
    fixture::{Fixture, PORT, client, v4, vip},
    nat::{answer, back, tcp},
};

const FLOWS: u32 = 10_000;
const CHANGES: u32 = 1_000;
/// Number of backends, out of eight, that do not change.
const STEADY: usize = 4;
const BACKENDS: usize = 8;
const IDLE: Duration = Duration::from_secs(60);

/// Returns the outer destination address of a packet.
fn sent_to(program: &mut Program, frame: &[u8]) -> Ipv4Addr {
    let mut out = [0; 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = program.test_run(options).unwrap();
    assert_eq!(result.return_value, 3, "not sent");
    Ipv4Addr::from([out[30], out[31], out[32], out[33]])
}

fn frame(flow: u32, flags: u8) -> Vec<u8> {
    let source = Ipv4Addr::from(0x0a07_0000 + flow / 1000);
    let port = 10_000 + (flow % 1000) as u16;
    let vip = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
    TestPacket::tcp((source.into(), port), (vip, PORT), flags).bytes()
}

struct Node {
    folder: tempfile::TempDir,
    controller: Controller<KernelMaps>,
    attacher: Attacher,
    now: Instant,
    /// Weights; 0 means absent.
    weights: [u32; BACKENDS],
    present: [bool; BACKENDS],
    up: [bool; BACKENDS],
}

impl Node {
    fn new() -> Self {
        let xdp = Xdp::open(&OpenOptions {
            sizes: Sizes::of_each(1 << 16),
            ..OpenOptions::default()
        });
        let (attacher, maps) = xdp.unwrap().into_parts();
        let folder = tempfile::tempdir().unwrap();
        let (weights, present) = ([4; BACKENDS], [true; BACKENDS]);
        let config = config(folder.path(), &weights, &present);
        let now = Instant::now();
        let mut node = Self {
            controller: Controller::new(config, maps, now).unwrap(),
            folder,
            attacher,
            now,
            weights,
            present,
            up: [false; BACKENDS],
        };
        for backend in 0..BACKENDS {
            node.settle_in(backend);
        }
        node
    }

    /// Gives a backend a next hop, and makes it up.
    fn settle_in(&mut self, backend: usize) {
        let hop = NextHop {
            macs: Macs::new([2, 0xb, 0, 0, 0, backend as u8], NODE_MAC),
            interface: 1,
            vlan: 0,
            mtu: 0,
            reply_interfaces: [1; 2],
        };
        self.controller
            .set_next_hop(&name(backend), Some(hop), self.now)
            .unwrap();
        self.probe(backend, true);
    }

    fn probe(&mut self, backend: usize, good: bool) {
        self.up[backend] = good;
        for _ in 0..2 {
            self.now += Duration::from_millis(1);
            let outcome = if good {
                Ok(Sample {
                    rtt: Duration::from_millis(1),
                    handshake: None,
                    report: OrcaLoadReport::default(),
                    load: Load::default(),
                })
            } else {
                Err(ProbeFailure::Timeout)
            };
            let measurement = Measurement {
                backend: name(backend),
                at: self.now,
                outcome,
            };
            self.controller.measure(measurement).unwrap();
        }
    }

    fn reconfigure(&mut self) {
        let config = config(self.folder.path(), &self.weights, &self.present);
        self.controller.reconfigure(config, self.now).unwrap();
    }

    /// Changes one of the backends that are not steady.
    fn change(&mut self, random: &mut StdRng) {
        let backend = random.random_range(STEADY..BACKENDS);
        match random.random_range(0..5) {
            0 => {
                self.present[backend] = !self.present[backend];
                self.reconfigure();
                if self.present[backend] {
                    self.settle_in(backend);
                }
            }
            1 => {
                self.weights[backend] = random.random_range(1..9);
                self.reconfigure();
            }
            _ if !self.present[backend] => {}
            2 => {
                let drained: bool = random.random();
                let name = name(backend);
                self.controller
                    .drain(&name, drained.then(Drain::default), "test", self.now)
                    .unwrap();
            }
            _ => self.probe(backend, !self.up[backend]),
        }
    }

    fn ask(&mut self, flow: u32, flags: u8) -> Ipv4Addr {
        let program = self.attacher.program().unwrap();
        sent_to(program, &frame(flow, flags))
    }
}

fn name(backend: usize) -> String {
    format!("b{backend}")
}

fn config(folder: &Path, weights: &[u32], present: &[bool]) -> Config {
    let mut text = format!(
        "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\nstate_dir = {folder:?}\n\
         [encap]\nsources = [\"10.98.0.1\"]\n[probe]\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n"
    );
    let mut names = Vec::new();
    for (backend, (weight, present)) in weights.iter().zip(present).enumerate() {
        if *present {
            names.push(name(backend));
            text += &format!(
                "[[backend]]\nname = \"b{backend}\"\naddress = \"10.8.0.{}\"\nmode = \"ipip\"\n\
                 capacity = {weight}\nbeacon = \"10.8.0.{}:7100\"\n",
                backend + 1,
                backend + 1
            );
        }
    }
    text += &format!(
        "[[pool]]\nname = \"all\"\nbackends = {names:?}\n\
         [[service]]\nname = \"chat\"\naddress = \"10.99.0.1\"\nport = {PORT}\npools = [\"all\"]\n\
         idle_timeout = \"{}s\"\n",
        IDLE.as_secs()
    );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

#[test]
fn no_flow_moves_through_a_thousand_changes_of_other_backends() {
    let seed = 20_261_125;
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let mut places = HashMap::new();
    let mut moving = Vec::new();
    for flow in 0..FLOWS {
        // Some open while the table is changing.
        if flow % 500 == 499 {
            node.change(&mut random);
        }
        let place = node.ask(flow, SYN);
        if place.octets()[3] as usize <= STEADY {
            places.insert(flow, place);
        } else {
            moving.push(flow);
        }
    }
    assert!(places.len() > FLOWS as usize / 3, "{}", places.len());
    for change in 0..CHANGES {
        node.change(&mut random);
        for _ in 0..20 {
            let flow = random.random_range(0..FLOWS);
            if let Some(place) = places.get(&flow) {
                assert_eq!(node.ask(flow, ACK), *place, "change {change} of {seed}");
            }
        }
        if change % 50 == 49 {
            // Each of them sends a packet before its idle timeout.
            for (flow, place) in &places {
                assert_eq!(node.ask(*flow, ACK), *place, "change {change} of {seed}");
            }
            node.now += IDLE / 2;
            node.controller.tick(node.now).unwrap();
        }
    }
}

/// Sends `count` SYNs of a million flows to a service through the program, back to back; each grows
/// by this many bytes.
fn flood(program: &mut Program, vip: u8, growth: u32, count: u32) {
    let mut bench = EbpfLoader::new().load(bench_object()).unwrap();
    let wrapper: &mut Program = bench.program_mut("bench").unwrap().try_into().unwrap();
    wrapper.load().unwrap();
    let mut table: ProgramArray<MapData> = bench.take_map("PROGRAMS").unwrap().try_into().unwrap();
    table.set(0, program.fd().unwrap(), 0).unwrap();
    let mut run: Array<MapData, Run> = bench.take_map("RUN").unwrap().try_into().unwrap();
    let mut syn = TestPacket::tcp(client(true), (v4(vip), PORT), SYN);
    syn.payload = vec![7; 30];
    let template = syn.bytes();
    assert_eq!(template.len(), 8 * WORDS);
    let mut series = Run {
        len: template.len() as u32,
        flow_mask: (1 << 20) - 1,
        growth,
        check: u32::from_ne_bytes(template[..4].try_into().unwrap()),
        change: 1,
        ..Run::default()
    };
    for (word, bytes) in series.template.iter_mut().zip(template.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap());
    }
    run.set(0, series, 0).unwrap();
    let mut out = vec![0; 512];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&template);
    options.data_out = Some(&mut out);
    options.repeat = count;
    let wrapper: &mut Program = bench.program_mut("bench").unwrap().try_into().unwrap();
    wrapper.test_run(options).unwrap();
    let good = run.get(&0, 0).unwrap().good;
    assert!(good >= u64::from(count) - 1, "{good} of {count} sent on");
}

#[test]
fn ten_million_syns_move_no_open_flow() {
    const OPEN: u16 = 500;
    let mut fixture = Fixture::new();
    let slot = u32::from(vip::EXACT);
    let tcp = |number: u16, flags| {
        let client = (client(true).0, 2000 + number);
        TestPacket::tcp(client, (v4(vip::EXACT), PORT), flags).bytes()
    };
    // All new flows differ from the owner: each needs an entry.
    let moving = Slot {
        owner: 2,
        ..Slot::owned_by(1, 2)
    };
    fixture.set_slot(slot, moving);
    let program = fixture.xdp.program().unwrap();
    let mut places = Vec::new();
    for number in 0..OPEN {
        let place = sent_to(program, &tcp(number, SYN));
        assert_eq!(sent_to(program, &tcp(number, ACK)), place);
        places.push(place);
    }
    assert!(places.iter().all(|place| place.octets()[3] == 1));
    flood(program, vip::EXACT, 20, 10_000_000);
    for (number, place) in (0..).zip(&places) {
        assert_eq!(sent_to(program, &tcp(number, ACK)), *place, "flow {number}");
    }
    // A stable table needs no entries at all.
    let maps = fixture.xdp.maps();
    let before = maps.flow_counts().unwrap();
    fixture
        .xdp
        .maps()
        .write_slots(slot, &[Slot::owned_by(1, 2)]);
    flood(fixture.xdp.program().unwrap(), vip::EXACT, 20, 1_000_000);
    assert_eq!(fixture.xdp.maps().flow_counts().unwrap(), before);
    assert_eq!(before[0], usize::from(OPEN));
    assert!(before[1] <= 1 << 15, "{before:?}");
}

#[test]
fn two_million_syns_end_no_open_flow_of_nat() {
    const OPEN: u16 = 500;
    const OPENINGS: u32 = 1 << 12;
    let mut fixture = Fixture::with_flows(1 << 14);
    fixture.configure(|config| {
        config.nat_unassured_max = OPENINGS;
        config.nat_port_count = 30_000;
        // The flood's packets differ in their addresses and ports, and keep one checksum.
        config.nat_flags = 0;
    });
    let from = |number: u16, packet: TestPacket| TestPacket {
        source_port: 2000 + number,
        ..packet
    };
    let port_of = |fixture: &mut Fixture, packet: &TestPacket| {
        let ran = fixture.run(&packet.bytes());
        u16::from_be_bytes([ran.bytes[34], ran.bytes[35]])
    };
    let mut ports = Vec::new();
    for number in 0..OPEN {
        let syn = from(number, tcp(true, SYN));
        let port = port_of(&mut fixture, &syn);
        back(&mut fixture, &answer(&syn, 5, port, SYN | ACK), &syn);
        assert_eq!(port_of(&mut fixture, &from(number, tcp(true, ACK))), port);
        ports.push(port);
    }
    flood(fixture.xdp.program().unwrap(), vip::NAT, 0, 2_000_000);
    for (number, port) in (0..).zip(&ports) {
        let syn = from(number, tcp(true, SYN));
        back(&mut fixture, &answer(&syn, 5, *port, ACK), &syn);
        let found = port_of(&mut fixture, &from(number, tcp(true, ACK)));
        assert_eq!(found, *port, "flow {number}");
    }
    // The run may have used several CPUs, each of which has a ring.
    let cpus = aya::util::nr_cpus().unwrap();
    let most = usize::from(OPEN) + cpus * OPENINGS as usize;
    let entries = fixture.xdp.maps().nat_entries().unwrap();
    assert!(
        entries[0] == entries[1] && entries[0] <= most,
        "{entries:?}"
    );
}
