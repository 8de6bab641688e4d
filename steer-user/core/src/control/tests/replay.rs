//! Replays: the journal is enough to decide again, and a forged record shows.

use std::collections::HashMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_probe::probe::{DRAINING, Load, Trouble, confirmation};

use super::*;
use crate::{
    config::Document,
    control::{Replayed, replay},
    domain::{
        evidence,
        health::State,
        passive::{Counts, Reason, Verdict},
    },
    journal::{self, Event, Journal, Limits, Located, Outcome, Record, ReplanCause},
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A run of the loop with a journal, and the documents of its generations.
struct Run {
    bench: Bench,
    random: StdRng,
    documents: HashMap<u64, Document>,
    counts: Counts,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::new(),
            random: StdRng::seed_from_u64(seed),
            documents: HashMap::new(),
            counts: Counts::default(),
        }
    }

    fn generation(&mut self, why: ReplanCause, operator: &Operator) -> (Config, Event) {
        let fall = self.random.random_range(1..4);
        let some: Vec<&str> = NAMES
            .into_iter()
            .filter(|_| self.random.random_bool(0.7))
            .collect();
        let some = if some.is_empty() { vec!["a"] } else { some };
        let mut text = text(self.bench.folder.path(), &some)
            .replace("[probe]", &format!("[probe]\nfall = {fall}"));
        if self.random.random_bool(0.5) {
            text += "[[class]]\nname = \"marked\"\nservice = \"chat\"\ndscp = [46]\npools = [\"all\"]\n";
        }
        let policies = ["adaptive", "capacity", "utilization"];
        let policy = policies[self.random.random_range(0..policies.len())];
        text += &format!("[balance]\npolicy = \"{policy}\"\n");
        let document = Document::single(Path::new("test.toml"), &text);
        let number = self.documents.len() as u64 + 1;
        let event = Event::Configured {
            why,
            by: "test".to_owned(),
            generation: Some(number),
            fingerprint: document.fingerprint(),
            until: None,
            drained: operator.drains.keys().cloned().collect(),
            weights: operator.weights.clone(),
        };
        let config = document.config().unwrap();
        self.documents.insert(number, document);
        (config, event)
    }

    fn probe(&mut self, controller: &mut Controller<Fake>) {
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        self.bench.now += Duration::from_micros(self.random.random_range(1..200_000));
        let outcome = match self.random.random_range(0..10) {
            0..=1 => Err(ProbeFailure::Timeout),
            2 => Err(ProbeFailure::Local("no buffers".to_owned())),
            3 => Err(match self.random.random_range(0..5) {
                0 => ProbeFailure::Refused("by the test".to_owned()),
                1 => ProbeFailure::ConnectionRefused,
                2 => ProbeFailure::BackendDown,
                trouble => ProbeFailure::Hung {
                    trouble: Trouble::from_number(f64::from(trouble)),
                    seconds: 1,
                },
            }),
            _ => {
                let mut report = OrcaLoadReport::default();
                if self.random.random_bool(0.1) {
                    report.named_metrics.insert(DRAINING.to_owned(), 1.0);
                }
                let base = [900, 5_000, 20_000, 60_000][self.random.random_range(0..4)];
                let micros = base + self.random.random_range(0..base);
                Ok(Sample {
                    rtt: Duration::from_micros(micros),
                    handshake: None,
                    report,
                    load: Load {
                        waiting: (micros % 2 == 0).then_some(3.0),
                        kv_use: (micros % 3 != 0).then_some((micros % 100) as f64 / 100.0),
                        ..Load::default()
                    },
                })
            }
        };
        let measurement = Measurement {
            backend: name.to_owned(),
            at: self.bench.now,
            outcome,
        };
        controller.measure(measurement).unwrap();
    }

    /// Lets clients ask all members, of which one may say nothing for a while.
    fn traffic(&mut self, controller: &mut Controller<Fake>) {
        let silent = self.random.random_range(0..8);
        for _ in 0..40 {
            self.bench.now += Duration::from_millis(20);
            for id in (1..=NAMES.len() as u16).filter(|id| *id != silent) {
                controller.dataplane.traffic.entry(id).or_default().answers += 10;
            }
            for id in 1..=NAMES.len() as u16 {
                let counters = controller.dataplane.traffic.entry(id).or_default();
                counters.flows += 1;
                counters.requests += 1;
            }
            controller.poll(self.bench.now).unwrap();
        }
    }

    /// Starts daemons one after the other over the same data path, and lets things happen to them.
    fn run(&mut self, daemons: usize, steps: usize, limits: Limits) -> Vec<Located<Record>> {
        let folder = journal::folder(self.bench.folder.path());
        let mut fake = Fake::new();
        let mut operator = Operator::default();
        for _ in 0..daemons {
            let (journal, cut) = Journal::open(&folder, limits).unwrap();
            self.bench.now = Instant::now();
            let now = self.bench.now;
            journal.record(Event::Start {
                version: "test".to_owned(),
                node: "edge".to_owned(),
                adopted: false,
                cut,
            });
            let (config, event) = self.generation(ReplanCause::Start, &operator);
            let host = Host::simulated(now);
            let start = Start {
                operator: operator.clone(),
                policy: Arc::new(ConfiguredPolicy),
                recorder: Recorder::starting(journal.clone(), host.clock, event),
                host,
            };
            let mut controller = Controller::start(config, fake.clone(), start, now).unwrap();
            for _ in 0..steps {
                match self.random.random_range(0..100) {
                    0 => {
                        let operator = controller.view().operator().clone();
                        let (config, event) = self.generation(ReplanCause::Apply, &operator);
                        controller.recorder.configured(event);
                        controller.reconfigure(config, self.bench.now).unwrap();
                    }
                    1..=3 => {
                        let name = NAMES[self.random.random_range(0..NAMES.len())];
                        let drained = self.random.random_bool(0.5);
                        // Unless the configuration has none of that name.
                        let _ = set_drain(&mut controller, name, drained, self.bench.now);
                    }
                    5 => {
                        let name = NAMES[self.random.random_range(0..NAMES.len())];
                        let weight = self
                            .random
                            .random_bool(0.7)
                            .then(|| self.random.random_range(1..9));
                        let _ = controller.weigh(name, weight, "test", self.bench.now);
                    }
                    4 => controller.tick(self.bench.now).unwrap(),
                    6..=14 => {
                        self.bench.now += Duration::from_secs(2);
                        controller.poll(self.bench.now).unwrap();
                    }
                    16..=18 => {
                        let name = NAMES[self.random.random_range(0..NAMES.len())];
                        self.counts.refused += self.random.random_range(0..2);
                        self.counts.accepted += self.random.random_range(0..2);
                        let (counts, now) = (self.counts, self.bench.now);
                        watch(&mut controller, name, counts, now).unwrap();
                    }
                    19 => {
                        let name = NAMES[self.random.random_range(0..NAMES.len())];
                        let outcome = [
                            confirmation::Outcome::Connected,
                            confirmation::Outcome::Refused,
                            confirmation::Outcome::NoAnswer,
                        ][self.random.random_range(0..3)];
                        let now = self.bench.now;
                        controller.confirm(name, outcome, now).unwrap();
                    }
                    20..=22 => self.traffic(&mut controller),
                    _ => self.probe(&mut controller),
                }
                // The writer begins files behind our back: wait, so that a seed means one run.
                journal.flush();
            }
            operator = controller.view().operator().clone();
            fake = controller.dataplane;
        }
        let verified = journal::verify(&folder, None).unwrap();
        assert!(verified.damage.is_empty(), "{:?}", verified.damage);
        journal::records(&folder)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn replay(&self, records: &[Located<Record>]) -> Replayed {
        let document = |number| {
            let found = self.documents.get(&number).cloned();
            found.ok_or_else(|| format!("no generation {number}"))
        };
        replay(records.iter().cloned().map(Ok), document, Instant::now()).unwrap()
    }
}

const LARGE: Limits = Limits {
    file_bytes: 1 << 30,
    files: 2,
};

#[test]
fn decisions_are_made_again_over_restarts_drains_and_configurations() {
    for seed in 0..4 {
        let mut run = Run::new(seed);
        let records = run.run(3, 400, LARGE);
        let replayed = run.replay(&records);
        let lines: Vec<_> = replayed
            .disagreements
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(lines.is_empty(), "seed {seed}: {lines:#?}");
        assert!(
            replayed.without.is_empty(),
            "seed {seed}: {:?}",
            replayed.without
        );
        assert_eq!(replayed.unchecked, 0);
        assert!(
            replayed.backends > 100
                && replayed.tables > 15
                && replayed.steps > 20
                && replayed.verdicts > 20,
            "{replayed:?}"
        );
    }
}

#[test]
fn what_is_left_after_rotation_is_enough_to_go_on() {
    let limits = Limits {
        file_bytes: 90_000,
        files: 3,
    };
    let mut run = Run::new(42);
    let records = run.run(2, 500, limits);
    assert!(records[0].item.seq > 1, "nothing was rotated away");
    let replayed = run.replay(&records);
    assert!(
        replayed.disagreements.is_empty(),
        "{:#?}",
        replayed.disagreements
    );
    assert!(
        replayed.tables > 15 && replayed.unchecked < 5,
        "{replayed:?}"
    );
    // Without the configurations the inputs still lead to the same tables.
    let none = |_| Err("not kept".to_owned());
    let blind = replay(records.iter().cloned().map(Ok), none, Instant::now()).unwrap();
    assert!(blind.disagreements.is_empty(), "{:#?}", blind.disagreements);
    assert!(!blind.without.is_empty());
    assert_eq!(blind.tables, replayed.tables);
}

/// Every record of a decision, changed in any way that matters, is disagreed with.
#[test]
fn a_record_that_was_made_up_is_disagreed_with() {
    let mut run = Run::new(7);
    let records = run.run(1, 150, LARGE);
    let mut forged = 0;
    for index in 0..records.len() {
        for kind in 0..4 {
            let mut records = records.clone();
            if !forge(&mut records[index].item.event, kind) {
                continue;
            }
            forged += 1;
            let replayed = run.replay(&records);
            let line = records[index].line;
            assert!(
                replayed.disagreements.iter().any(|d| d.line == line),
                "kind {kind}: {:?}",
                records[index].item.event
            );
        }
    }
    assert!(forged > 100, "{forged}");
}

fn forge(event: &mut Event, kind: u8) -> bool {
    match (event, kind) {
        (
            Event::Backend {
                health: Some((from, to)),
                ..
            },
            0,
        ) => std::mem::swap(from, to),
        (Event::Backend { ring, .. }, 1) => {
            *ring = match ring.take() {
                Some((from, to)) => Some((from, to + 1)),
                None => Some((None, 0)),
            };
        }
        // Without its last probe nothing changes.
        (Event::Backend { probes, .. }, 2) => drop(probes.pop()),
        (
            Event::Backend {
                probes,
                health: Some((State::Up, State::Down)),
                ..
            },
            3,
        ) => {
            if let Some(last) = probes.last_mut() {
                last.outcome = Outcome::Answered {
                    rtt_ns: 1,
                    draining: false,
                    load: None,
                };
            }
        }
        (Event::Verdict { verdict, .. }, 0) if *verdict != evidence::Verdict::Serving => {
            *verdict = evidence::Verdict::Serving;
        }
        (
            Event::Verdict {
                inputs, verdict, ..
            },
            1,
        ) if !verdict.serves() => {
            (inputs.probes, inputs.packets) = (None, None);
        }
        (Event::OwnConnection { outcome, .. }, 0) => {
            *outcome = match outcome {
                confirmation::Outcome::Connected => confirmation::Outcome::Refused,
                _ => confirmation::Outcome::Connected,
            };
        }
        (Event::Balanced { moved, .. }, 0) => *moved += 1,
        (Event::Balanced { members, .. }, 1) => members.iter_mut().for_each(|m| m.capacity += 1),
        (Event::Balanced { settings, .. }, 2) => settings.max_shift += 1,
        (
            Event::OutlierDetection {
                counts,
                verdict: Verdict::Out(Reason::Refused, _),
                ..
            },
            0,
        ) if counts.refused > 0 => counts.refused = 0,
        (Event::OutlierDetection { peer_traffic, .. }, 0) if peer_traffic.others => {
            peer_traffic.others = false
        }
        (Event::Table { digest, .. }, 0) => digest.replace_range(..1, "x"),
        (Event::Table { inputs, .. }, 1) if inputs.iter().any(|i| i.healthy) => {
            inputs
                .iter_mut()
                .for_each(|input| input.healthy = !input.healthy);
        }
        (Event::Table { slots, .. }, 2) => *slots = if *slots == 509 { 251 } else { 509 },
        _ => return false,
    }
    true
}
