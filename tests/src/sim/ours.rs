//! steer: the daemon's controller over a data path in memory, and the kernel's decision.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path as FilePath,
    time::{Duration, Instant},
};

use steer_common::{
    abi::{Address, FlowKey, Macs, Slot, TICK_SHIFT},
    decide::{connection::Opaque, decide},
    hash,
    verdict::Verdict,
    wire::{Packet, PacketKind},
};
use steer_core::{config::Config, control::Controller};
use steer_probe::probe::{Load, Measurement, OrcaLoadReport, ProbeFailure, Sample, Trouble};
use tempfile::TempDir;

use steer_simulator::{
    Symptom,
    policy::{Ask, Flow, Layer, Policy, Probed, Site},
};

use super::path::Path;
use crate::attack::out_by_status;

/// Interval of the loop, as in the daemon.
pub(super) const LOOK: Duration = Duration::from_millis(20);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// One node of steer.
pub struct Ours {
    controller: Controller<Path>,
    path: Path,
    start: Instant,
    servers: HashMap<IpAddr, usize>,
    capacities: Vec<u32>,
    slots: Vec<Slot>,
    moved: f64,
    looked: Duration,
    _state: TempDir,
}

impl Ours {
    /// Creates a node with this site as its configuration, and a `[balance] policy`.
    ///
    /// # Panics
    ///
    /// Panics if the configuration is refused, because it is part of the program.
    #[must_use]
    pub fn new(site: &Site, policy: &str) -> Self {
        let state = tempfile::tempdir().expect("a folder for state");
        let text = document(site, policy, state.path());
        let config = Config::parse(&text, FilePath::new("sim.toml")).expect("our own document");
        let path = Path::new();
        let start = Instant::now();
        let controller =
            Controller::new(config, path.clone(), start).expect("a site that fits the tables");
        let addresses = (0..site.servers.len()).map(|server| (address(server), server));
        let mut ours = Self {
            controller,
            servers: addresses.collect(),
            capacities: site.servers.iter().map(|(slots, _)| *slots).collect(),
            path,
            start,
            slots: Vec::new(),
            moved: 0.0,
            looked: Duration::ZERO,
            _state: state,
        };
        ours.look();
        ours
    }

    /// Records changes of the tables.
    fn look(&mut self) {
        let tables = self.path.tables();
        let slots: Vec<Slot> = (0..)
            .map_while(|index| tables.current_slot(index))
            .collect();
        drop(tables);
        let changed = slots.iter().zip(&self.slots);
        let changed = changed.filter(|(now, then)| then.first != 0 && now.first != then.first);
        self.moved += changed.count() as f64 / slots.len().max(1) as f64;
        self.slots = slots;
    }

    /// Returns the slot of a flow of a service, and the flow's hash.
    pub(super) fn slot(&self, flow: &FlowKey, service: usize) -> Option<(Slot, u64)> {
        let tables = self.path.tables();
        let snapshot = tables.snapshot();
        let address: Address = vip(service).into();
        let found = snapshot
            .services
            .iter()
            .find(|s| s.key.address == address)?;
        if found.slots_len == 0 {
            return None;
        }
        let hash = hash::flow(flow, snapshot.config.flow_seed);
        let slot = tables.current_slot(found.slots_start + hash::reduce(hash, found.slots_len))?;
        Some((slot, hash))
    }

    /// Returns the server of a member.
    pub(super) fn server(&self, id: u16) -> Option<usize> {
        let tables = self.path.tables();
        let member = tables.snapshot().members.get(usize::from(id))?;
        self.servers.get(&member.address.to_ip()).copied()
    }

    /// Returns whether new flows may go to a server.
    pub(super) fn takes_new(&self, server: usize) -> bool {
        let wanted: Address = address(server).into();
        let tables = self.path.tables();
        let mut members = tables.snapshot().members.iter();
        members.any(|member| member.address == wanted && member.takes_new())
    }

    fn decide(&self, service: usize, flow: &FlowKey, flags: u8, now: Duration) -> Option<usize> {
        let tables = self.path.tables();
        tables.now_ns.set(now.as_nanos() as u64);
        tables
            .now_ms
            .set((now.as_nanos() as u64 >> TICK_SHIFT) as u32);
        tables.clear_steps();
        let mut key = *flow;
        key.destination = vip(service).into();
        let verdict = decide(&packet(key, flags), &*tables, &Opaque);
        let Verdict::Encap(target) = verdict else {
            return None;
        };
        let member = tables.snapshot().members[usize::from(target.id)];
        self.servers.get(&member.address.to_ip()).copied()
    }
}

impl Policy for Ours {
    fn layer(&self) -> Layer {
        Layer::Connection
    }

    fn probed(&mut self, server: usize, probed: &Probed, now: Duration) {
        let measurement = Measurement {
            backend: name(server),
            at: self.start + now,
            outcome: outcome(probed, self.capacities[server]),
        };
        self.controller
            .measure(measurement)
            .expect("memory takes what is written");
        if now.saturating_sub(self.looked) >= LOOK {
            self.looked = now;
            self.controller
                .poll(self.start + now)
                .expect("memory takes what is written");
        }
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        self.decide(ask.service, &key(ask.flow), SYN, now)
    }

    fn follow(
        &mut self,
        service: usize,
        flow: Flow,
        _server: usize,
        now: Duration,
    ) -> Option<usize> {
        self.decide(service, &key(flow), ACK, now)
    }

    fn tick(&mut self, now: Duration) {
        self.controller
            .tick(self.start + now)
            .and_then(|()| self.controller.poll(self.start + now))
            .expect("memory takes what is written");
        self.look();
    }

    fn ejected(&self, now: Duration) -> Vec<usize> {
        let status = self.controller.view().status(self.start + now);
        let status = status.expect("memory can be read");
        let status = serde_json::to_value(&status).expect("a status is JSON");
        let out = out_by_status(&status);
        let names = out.iter().filter_map(|out| out.split(' ').next());
        names
            .filter_map(|name| name.strip_prefix('s')?.parse().ok())
            .collect()
    }

    fn moved(&self) -> Option<f64> {
        Some(self.moved)
    }
}

fn outcome(probed: &Probed, slots: u32) -> Result<Sample, ProbeFailure> {
    match *probed {
        Probed::Answered { hung: true, .. } => Err(ProbeFailure::Hung {
            trouble: Trouble::NoCompletion,
            seconds: 0,
        }),
        Probed::Answered {
            symptom: Some((symptom, false)),
            ..
        } => Err(ProbeFailure::Hung {
            trouble: match symptom {
                Symptom::NoProgress => Trouble::NoProgress,
                Symptom::SlowPage => Trouble::Silent,
            },
            seconds: 0,
        }),
        Probed::Answered {
            rtt,
            report: seen,
            direct,
            symptom,
            ..
        } => {
            let (running, waiting) = (f64::from(seen.running), f64::from(seen.waiting));
            let load = Load {
                running: Some(running),
                waiting: Some(waiting),
                limit: Some(f64::from(slots)),
                in_flight: Some(running + waiting),
                capacity: Some(f64::from(slots)),
                kv_use: Some(seen.kv_use),
                age: Some(direct.taken.saturating_sub(seen.taken).as_secs_f64()),
                ..Load::default()
            };
            let mut report = OrcaLoadReport::default();
            let load = match symptom {
                // A page that does not arrive contains nothing.
                Some((Symptom::SlowPage, _)) => Load::default(),
                _ => load,
            };
            load.write(&mut report);
            if let Some((symptom, _)) = symptom {
                report
                    .named_metrics
                    .insert("hint".to_owned(), hint(symptom));
            }
            Ok(Sample {
                rtt,
                handshake: None,
                load: Load::parse(&report),
                report,
            })
        }
        Probed::Refused => Err(ProbeFailure::Refused("the process is gone".to_owned())),
        Probed::Lost => Err(ProbeFailure::Timeout),
    }
}

/// Returns the number of a hint in a beacon's report.
const fn hint(symptom: Symptom) -> f64 {
    match symptom {
        Symptom::NoProgress => 1.0,
        Symptom::SlowPage => 2.0,
    }
}

pub(super) fn key(flow: Flow) -> FlowKey {
    FlowKey {
        source: flow.client.into(),
        source_port: flow.port,
        destination_port: 80,
        protocol: 6,
        family: 4,
        ..FlowKey::default()
    }
}

fn name(server: usize) -> String {
    format!("s{server}")
}

fn address(server: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a40_0000 + server as u32 + 1).into()
}

pub(super) fn vip(service: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a63_0000 + service as u32 + 1).into()
}

fn document(site: &Site, policy: &str, state: &FilePath) -> String {
    let state = state.display();
    let mut text = format!(
        "[node]\nname = \"edge\"\nregion = \"r{}\"\ninterfaces = [\"eth0\"]\nstate_dir = \"{state}\"\n\
         [encap]\nsources = [\"10.98.0.1\"]\n[probe]\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n\
         interval = \"{}ms\"\n[balance]\npolicy = \"{policy}\"\n",
        site.home,
        site.probe_every.as_millis(),
    );
    // Writing to a string cannot fail.
    for (server, (slots, region)) in site.servers.iter().enumerate() {
        let (name, address) = (name(server), address(server));
        let _ = write!(
            text,
            "[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\nmode = \"ipip\"\n\
             region = \"r{region}\"\ncapacity = {slots}\nbeacon = \"{address}:7100\"\n"
        );
    }
    for (service, servers) in site.services.iter().enumerate() {
        let names: Vec<_> = servers.iter().copied().map(name).collect();
        let _ = write!(
            text,
            "[[pool]]\nname = \"p{service}\"\nbackends = {names:?}\n\
             [[service]]\nname = \"v{service}\"\naddress = \"{}\"\nport = 80\npools = [\"p{service}\"]\n\
             idle_timeout = \"60s\"\n",
            vip(service),
        );
        if !site.regions.is_empty() {
            let regions: Vec<_> = site.regions.iter().map(|r| format!("r{r}")).collect();
            let _ = writeln!(text, "regions = {regions:?}");
        }
    }
    text
}

fn packet(key: FlowKey, tcp_flags: u8) -> Packet {
    Packet {
        key,
        macs: Macs::default(),
        interface: 0,
        frame_len: 64,
        network: 14,
        transport: 34,
        quoted: 0,
        tags: 0,
        ip_len: 40,
        id: 0,
        headers: 40,
        ttl: 64,
        tos: 0,
        tcp_flags,
        kind: PacketKind::Whole,
        well_formed: true,
    }
}
