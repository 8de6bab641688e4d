//! The loop over a data path in memory, with a clock of the test's own.

mod balance;
mod classes;
mod evidence;
mod fake;
mod imports;
mod operator;
mod passive;
mod preview;
mod replay;
mod rings;
mod shedding;
mod silence;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use steer_common::{abi::Macs, abi::MemberState, abi::member_flags, tables::NextHop};
use steer_probe::probe::{Load, Measurement, OrcaLoadReport, ProbeFailure, Sample};
use tempfile::TempDir;

use self::fake::Fake;
use super::{Controller, DryRun, Host, Operator, Recorder, Start, WallClock, error::CommandError};
use crate::{
    config::Config,
    dataplane::SteeringTables as _,
    domain::{
        balance::ConfiguredPolicy, evidence::GONE_AFTER, passive::Counts, silence::PeerTraffic,
    },
};

/// A site with these backends, all probed.
fn config(folder: &Path, backends: &[&str]) -> Config {
    Config::parse(&text(folder, backends), Path::new("test.toml")).unwrap()
}

fn text(folder: &Path, backends: &[&str]) -> String {
    let folder = folder.display();
    let mut text = format!(
        "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
         state_dir = \"{folder}\"\n[nat]\naddresses = [\"10.98.0.1\"]\n\
         [probe]\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n"
    );
    for (number, name) in (1..).zip(backends) {
        // The address belongs to the name, wherever it stands in the list.
        let last = name.as_bytes()[0];
        text += &format!(
            "[[backend]]\nname = \"{name}\"\naddress = \"10.0.{number}.{last}\"\nmode = \"nat\"\n\
             beacon = \"10.0.{number}.{last}:7100\"\n"
        );
    }
    text += &format!(
        "[[pool]]\nname = \"all\"\nbackends = {backends:?}\n\
         [[service]]\nname = \"chat\"\naddress = \"10.99.0.1\"\nport = 80\npools = [\"all\"]\n\
         idle_timeout = \"60s\"\n"
    );
    text
}

struct Bench {
    folder: TempDir,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            now: Instant::now(),
        }
    }

    fn start(&self, backends: &[&str], fake: Fake) -> Controller<Fake> {
        self.start_with(backends, fake, Operator::default())
    }

    fn start_with(&self, backends: &[&str], fake: Fake, operator: Operator) -> Controller<Fake> {
        let clock = WallClock::new(self.now, SystemTime::now());
        let start = Start {
            operator,
            policy: Arc::new(ConfiguredPolicy),
            recorder: Recorder::silent(clock),
            host: Host { cpus: 1, clock },
        };
        Controller::start(config(self.folder.path(), backends), fake, start, self.now).unwrap()
    }

    /// Another daemon over the same data path, which knows what the operator set before.
    fn restart(&self, backends: &[&str], before: &Controller<Fake>) -> Controller<Fake> {
        let operator = before.view().operator().clone();
        self.start_with(backends, before.dataplane.clone(), operator)
    }

    /// A probe of a backend: its round trip, or none if it failed.
    fn probe(&mut self, controller: &mut Controller<Fake>, backend: &str, rtt_ms: Option<u64>) {
        self.now += Duration::from_millis(100);
        let outcome = match rtt_ms {
            Some(rtt) => Ok(Sample {
                rtt: Duration::from_millis(rtt),
                handshake: None,
                report: OrcaLoadReport::default(),
                load: Load::default(),
            }),
            None => Err(ProbeFailure::Timeout),
        };
        let measurement = Measurement {
            backend: backend.to_owned(),
            at: self.now,
            outcome,
        };
        controller.measure(measurement).unwrap();
    }

    /// A probe that is answered at once, with a use in percent.
    fn loaded(&mut self, controller: &mut Controller<Fake>, backend: &str, percent: f64) {
        self.now += Duration::from_millis(10);
        let measurement = Measurement {
            backend: backend.to_owned(),
            at: self.now,
            outcome: Ok(Sample {
                rtt: Duration::from_millis(1),
                handshake: None,
                report: OrcaLoadReport::default(),
                load: Load {
                    kv_use: Some(percent / 100.0),
                    ..Load::default()
                },
            }),
        };
        controller.measure(measurement).unwrap();
    }

    fn up(&mut self, controller: &mut Controller<Fake>, backend: &str, rtt_ms: u64) {
        for _ in 0..2 {
            self.probe(controller, backend, Some(rtt_ms));
        }
    }

    /// Silent for so long that its open flows are given up.
    fn down(&mut self, controller: &mut Controller<Fake>, backend: &str) {
        for _ in 0..4 {
            self.probe(controller, backend, None);
        }
        self.now += GONE_AFTER;
        self.probe(controller, backend, None);
    }
}

fn set_drain(
    controller: &mut Controller<Fake>,
    name: &str,
    drained: bool,
    now: Instant,
) -> Result<(), CommandError> {
    controller.drain(
        name,
        drained.then(super::Drain::default),
        "the operator",
        now,
    )
}

/// Takes in counts of a backend's connections as they are, whatever the data path counts.
fn watch(
    controller: &mut Controller<Fake>,
    name: &str,
    counts: Counts,
    now: Instant,
) -> anyhow::Result<()> {
    let found = (
        controller.site.backend(name),
        controller.backends.get_mut(name),
    );
    let (Some(index), Some(state)) = found else {
        return Ok(());
    };
    let (peer_traffic, recorder) = (PeerTraffic::default(), &mut controller.recorder);
    let health = &mut controller.health;
    match health.observe_counts((index, name), counts, peer_traffic, state, recorder, now) {
        Some(ejection) => controller.evidence().apply_ejection(&ejection),
        None => Ok(()),
    }
}

use MemberState::{Down, Draining, Up};

#[test]
fn a_backend_counts_as_up_only_after_it_answered_often_enough() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Down)]);
    assert_eq!(controller.dataplane.choices(), [(0, 0)]);
    bench.probe(&mut controller, "a", Some(1));
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Down)]);
    bench.probe(&mut controller, "a", Some(1));
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Down)]);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
}

#[test]
fn the_next_ring_takes_over_and_open_flows_are_waited_for() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "b", 20);
    bench.up(&mut controller, "a", 1);
    // New flows go to the nearer one at once; open ones are still the other's.
    assert_eq!(controller.dataplane.choices(), [(1, 2)]);
    controller
        .tick(bench.now + Duration::from_secs(59))
        .unwrap();
    assert_eq!(controller.dataplane.choices(), [(1, 2)]);
    // Slots are looked at sixteen times in that minute.
    controller
        .tick(bench.now + Duration::from_secs(63))
        .unwrap();
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
    bench.down(&mut controller, "a");
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Up)]);
    assert_eq!(controller.dataplane.choices(), [(2, 1)]);
    // With nobody up the table stays: the members' states say enough.
    bench.down(&mut controller, "b");
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Down)]);
    assert_eq!(controller.dataplane.choices(), [(2, 1)]);
}

#[test]
fn what_fails_on_this_node_marks_no_backend_down() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    bench.up(&mut controller, "a", 1);
    for _ in 0..10 {
        let measurement = Measurement {
            backend: "a".to_owned(),
            at: bench.now,
            outcome: Err(ProbeFailure::Local("no buffers".to_owned())),
        };
        controller.measure(measurement).unwrap();
    }
    assert_eq!(controller.dataplane.states(), [(1, Up)]);
}

#[test]
fn what_was_concluded_holds_until_there_is_something_new() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b", "c"], Fake::new());
    for (name, rtt) in [("a", 1), ("b", 20), ("c", 60)] {
        bench.up(&mut controller, name, rtt);
    }
    bench.down(&mut controller, "c");
    controller
        .tick(bench.now + Duration::from_secs(100))
        .unwrap();
    let states = [(1, Up), (2, Up), (3, Down)];
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);

    // The daemon dies; another takes up the maps.
    let fake = controller.dataplane.clone();
    let mut controller = bench.start(&["a", "b", "c"], fake);
    assert_eq!(controller.dataplane.states(), states);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
    // The far one answers first; before the others are heard, nothing moves to it.
    bench.up(&mut controller, "b", 20);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
    bench.up(&mut controller, "a", 1);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
    // What never answers is given up in the end, as its state says.
    controller.tick(bench.now + Duration::from_secs(4)).unwrap();
    assert_eq!(controller.dataplane.states(), states);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
}

#[test]
fn a_drain_outlives_the_daemon() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    set_drain(&mut controller, "a", true, bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    assert!(controller.dataplane.choices().iter().all(|c| c.0 == 2));
    assert!(set_drain(&mut controller, "nobody", true, bench.now).is_err());
    let mut controller = bench.restart(&["a", "b"], &controller);
    bench.up(&mut controller, "a", 1);
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    set_drain(&mut controller, "a", false, bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Up)]);
}

#[test]
fn a_backend_that_is_removed_keeps_its_open_flows_and_then_its_number() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    controller.dataplane.tracked = vec![(0, 2)];
    let without = config(bench.folder.path(), &["a"]);
    controller.reconfigure(without, bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Draining)]);
    assert!(controller.dataplane.choices().iter().all(|c| c.0 == 1));
    // Slots still name it as owner, and the flow table names it as well.
    let later = |seconds| bench.now + Duration::from_secs(seconds);
    for seconds in [20, 61, 122] {
        controller.tick(later(seconds)).unwrap();
        assert_eq!(controller.dataplane.states(), [(1, Up), (2, Draining)]);
    }
    controller.dataplane.tracked.clear();
    controller.tick(later(140)).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up)]);
}

#[test]
fn a_backend_that_is_replaced_serves_until_its_successor_is_measured() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    bench.up(&mut controller, "a", 1);
    let other = config(bench.folder.path(), &["b"]);
    controller.reconfigure(other.clone(), bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Down)]);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
    let before = controller.dataplane.clone();
    bench.up(&mut controller, "b", 1);
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    assert_eq!(controller.dataplane.choices(), [(2, 1)]);

    // A daemon that dies in between leaves it to the next one.
    let next = Controller::new(other.clone(), before.clone(), bench.now).unwrap();
    assert_eq!(next.dataplane.states(), [(1, Up), (2, Down)]);

    // A successor that never answers does not keep it for ever.
    let mut next = Controller::new(other, before, bench.now).unwrap();
    next.tick(bench.now + Duration::from_secs(4)).unwrap();
    assert_eq!(next.dataplane.states(), [(1, Draining), (2, Down)]);
}

#[test]
fn a_backend_that_moved_is_measured_anew_and_others_are_not() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    // The address goes by the place in the list.
    let exchanged = text(bench.folder.path(), &["a", "c", "b"]);
    let moved = Config::parse(&exchanged, Path::new("test.toml")).unwrap();
    controller.reconfigure(moved, bench.now).unwrap();
    let health = |name: &str, controller: &Controller<Fake>| {
        let status = controller.view().status(bench.now).unwrap();
        let found = status.backends.into_iter().find(|b| b.name == name);
        found.unwrap().health
    };
    assert_eq!(health("a", &controller), "up");
    assert_eq!(health("b", &controller), "unknown");
    assert!(controller.dataplane.choices().iter().all(|c| c.0 == 1));
}

#[test]
fn other_thresholds_count_for_backends_that_are_known() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    let patient = text(bench.folder.path(), &["a", "b"]).replace("[probe]", "[probe]\nfall = 3");
    let patient = Config::parse(&patient, Path::new("test.toml")).unwrap();
    controller.reconfigure(patient, bench.now).unwrap();
    for state in [Up, Up, Draining, Draining] {
        bench.probe(&mut controller, "a", None);
        assert_eq!(controller.dataplane.states()[0], (1, state));
    }
    bench.now += GONE_AFTER;
    bench.probe(&mut controller, "a", None);
    assert_eq!(controller.dataplane.states()[0], (1, Down));
}

#[test]
fn a_table_that_has_to_grow_keeps_its_owners() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    bench.up(&mut controller, "a", 1);
    let before = controller.dataplane.services()[0];
    let more = config(
        bench.folder.path(),
        &["a", "b", "c", "d", "e", "f", "g", "h"],
    );
    controller.reconfigure(more, bench.now).unwrap();
    let after = controller.dataplane.services()[0];
    assert!(after.slots_len > before.slots_len);
    assert_ne!(after.slots_start, before.slots_start);
    assert_eq!(controller.dataplane.choices(), [(1, 1)]);
}

#[test]
fn the_next_hop_is_written_and_forgotten() {
    let bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    let hop = NextHop {
        macs: Macs::new([1; 6], [2; 6]),
        interface: 7,
        vlan: 7,
        mtu: 1500,
        reply_interfaces: [7; 2],
    };
    controller.set_next_hop("a", Some(hop), bench.now).unwrap();
    let member = controller.dataplane.member(1);
    assert_eq!(member.macs, hop.macs);
    assert_eq!((member.vlan, member.mtu), (7, 1500));
    assert_eq!(member.interface, 7);
    assert_ne!(member.flags & member_flags::RESOLVED, 0);
    assert_eq!(controller.dataplane.ports, [7]);
    controller.set_next_hop("a", None, bench.now).unwrap();
    assert_eq!(controller.dataplane.member(1).flags, 0);
}

#[test]
fn flows_of_the_last_nat_backend_are_still_looked_for_when_it_goes() {
    let bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    let has_nat = |controller: &Controller<Fake>| {
        let services = controller.dataplane.services();
        let chat = services.iter().find(|s| s.key.port == 80).unwrap();
        chat.flags & steer_common::abi::service_flags::HAS_NAT != 0
    };
    assert!(has_nat(&controller));
    let text = "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
         [encap]\nsources = [\"10.98.0.1\"]\n\
         [[backend]]\nname = \"b\"\naddress = \"10.0.9.9\"\nmode = \"ipip\"\n\
         [[pool]]\nname = \"all\"\nbackends = [\"b\"]\n\
         [[service]]\nname = \"chat\"\naddress = \"10.99.0.1\"\nport = 80\npools = [\"all\"]\n";
    let config = Config::parse(text, Path::new("test.toml")).unwrap();
    controller.reconfigure(config.clone(), bench.now).unwrap();
    assert!(has_nat(&controller), "its flows are open still");
    let fresh = Controller::new(config, Fake::new(), bench.now).unwrap();
    assert!(!has_nat(&fresh));
}

#[test]
fn regions_keep_their_numbers_and_bound_a_service() {
    let bench = Bench::new();
    let text = |regions: [&str; 2], allowed: &str| {
        let mut text = "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
             [encap]\nsources = [\"10.98.0.1\"]\n"
            .to_owned();
        for (number, region) in (1..).zip(regions) {
            text += &format!(
                "[[backend]]\nname = \"b{number}\"\naddress = \"10.0.9.{number}\"\n\
                 mode = \"ipip\"\nregion = \"{region}\"\n"
            );
        }
        text += &format!(
            "[[pool]]\nname = \"all\"\nbackends = [\"b1\", \"b2\"]\n[[service]]\nname = \"chat\"\n\
             address = \"10.99.0.1\"\nport = 80\npools = [\"all\"]\nregions = [\"{allowed}\"]\n"
        );
        Config::parse(&text, Path::new("test.toml")).unwrap()
    };
    let of = |controller: &Controller<Fake>| {
        let dataplane = &controller.dataplane;
        let members = [1, 2].map(|id| dataplane.member(id).region);
        (members, dataplane.services()[0].regions)
    };
    let mut controller = Controller::new(text(["eu", "us"], "us"), Fake::new(), bench.now).unwrap();
    let ([eu, us], mask) = of(&controller);
    assert_ne!(eu, us);
    assert_eq!(mask, 1 << us);
    // Only the one that is allowed is in the table.
    assert_eq!(controller.dataplane.choices(), [(2, 2)]);
    // A backend moves to a region whose name comes first.
    controller
        .reconfigure(text(["asia", "us"], "us"), bench.now)
        .unwrap();
    let ([asia, same], mask) = of(&controller);
    assert_eq!((same, mask), (us, 1 << us));
    assert_ne!(asia, us);
    // Another daemon over the same maps finds the numbers there.
    let fake = controller.dataplane.clone();
    let next = Controller::new(text(["asia", "us"], "asia"), fake, bench.now).unwrap();
    assert_eq!(of(&next), ([asia, us], 1 << asia));
}
