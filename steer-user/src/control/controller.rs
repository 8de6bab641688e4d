//! The state of the loop. It takes the clock as an argument, and waits for nothing.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::{abi::Config as Settings, tables::NextHop};
use steer_probe::probe::Measurement;
use tracing::info;

use super::{
    backend::{Change, Known},
    balancing::Rates,
    cids::{self, Quiet},
    concern::Concern,
    connections::Seen,
    desired::{self, Numbers},
    drained::Drained,
    flights::Flights,
    health::{ConnectionRequest, OutlierDetection},
    made::Made,
    nat_seed::with_nat_seed,
    passive::Readings,
    placement,
    plan::{self, Op},
    recorder::Recorder,
    regions::Regions,
    shedding::Shedding,
    slots::{self, Unsettled},
    status::{self, Status},
    tune::Tuning,
    weights::Weights,
    why::Decisions,
};
use crate::{
    config::{Config, MAX_CAPACITY, PolicyId},
    dataplane::{Dataplane, SweepLimits, interface_index},
    domain::{
        balance::{self, Cause, Tier},
        health::State,
    },
    explain::{Explanation, Names, PacketQuestion, Question, explain, explain_packet},
    journal::{Event, Journal},
};

/// How long tables that were taken up stay as they are while not all backends are measured.
const FROZEN: Duration = Duration::from_secs(3);
/// How long members that a configuration drops may take new flows while nobody else can.
const HANDOVER: Duration = Duration::from_secs(3);
/// From one sweep of the flow and nat tables to the next.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// From one [`Controller::look`] to the next.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// What the operator asked for and cannot have.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such backend.
    #[error("no backend is called {0:?}; `steer status` names them")]
    Unknown(String),
    /// It is no weight.
    #[error(
        "a weight is from 1 to {MAX_CAPACITY}; `steer backend drain` is for a backend that shall get \
         nothing"
    )]
    Weight,
    /// It could not be written down.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// The loop's state over a data path.
pub struct Controller<D> {
    pub(super) config: Config,
    pub(super) dataplane: D,
    pub(super) numbers: Numbers,
    pub(super) regions: Regions,
    /// Services and their classes, in the order of the configuration.
    pub(super) policies: Vec<PolicyId>,
    pub(super) shedding: Shedding,
    pub(super) flights: Flights,
    /// Where the table of each policy is.
    pub(super) tables: Vec<Range<u32>>,
    pub(super) known: HashMap<String, Known>,
    /// What tables are made of.
    pub(super) made: Made,
    pub(super) unsettled: Unsettled,
    pub(super) drained: Drained,
    pub(super) weights: Weights,
    /// Values that were set while the daemon runs.
    pub(super) tuning: Tuning,
    /// Flows that are remembered by themselves, by member, as of the last sweep.
    pub(super) remembered: HashMap<u16, usize>,
    /// When that sweep began.
    pub(super) counted: Option<Instant>,
    pub(super) recorder: Recorder,
    pub(super) passive: Readings,
    /// Tables are not changed before this, unless all backends are measured.
    pub(super) frozen: Option<Instant>,
    pub(super) swept: Instant,
    /// Whether a sweep is under way.
    pub(super) sweeping: bool,
    /// Nat flows that the last sweep left.
    pub(super) nat_entries: usize,
    /// What the slow loop remembers of each table, by service.
    pub(super) balances: HashMap<String, balance::State>,
    /// Whether it makes steps; else it only keeps what others made.
    pub(super) steps: bool,
    /// When it began with its last steps.
    pub(super) balanced: Instant,
    /// The next table to make one of, if it has not made them all.
    pub(super) stepping: Option<usize>,
    /// New flows of services.
    pub(super) rates: Rates,
    /// Services of which no backend says anything of its load.
    pub(super) silent: HashSet<String>,
    /// Tiers of services that are full.
    pub(super) full: HashMap<String, BTreeSet<Tier>>,
    /// Whom backends concern.
    pub(super) concern: Concern,
    /// Whether members were on their way out when the configuration was taken.
    pub(super) leaving: bool,
    /// Services whose probes are not believed.
    pub(super) panicking: HashSet<String>,
    /// Their backends that are taken to serve all the same, by the indexes of both.
    pub(super) revived: HashSet<(usize, usize)>,
    /// What was counted of backends' connections.
    pub(super) seen: Seen,
    /// Backends whose verdict may be changed by time, or by what clients get.
    pub(super) questionable: BTreeSet<usize>,
    /// Connections of this node's own that are to be tried.
    pub(super) requests: Vec<ConnectionRequest>,
    /// How often something that was said against a backend was contradicted.
    pub(super) contradicted: u64,
    /// Comparison of backends with their peers.
    pub(super) outliers: OutlierDetection,
    /// The weights of the last table that was told of, by service and backend.
    pub(super) shares: HashMap<String, HashMap<String, u32>>,
    /// The last decisions.
    pub(super) why: Decisions,
    /// Members with server ids of QUIC that are on their way out.
    pub(super) quiet: Quiet,
    /// Until when members that are no more in the configuration stand in for those that are.
    pub(super) handover: Option<Instant>,
}

impl<D: Dataplane> Controller<D> {
    /// Makes the data path what the configuration says. Members and tables that it has already go on.
    ///
    /// # Errors
    /// If the configuration needs more than the data path holds, or the state directory is unusable.
    pub fn new(config: Config, dataplane: D, now: Instant) -> Result<Self> {
        let recorder = Recorder::new(Journal::none());
        Self::with_recorder(config, dataplane, now, recorder)
    }

    /// As [`Self::new`], telling of every change.
    pub(super) fn with_recorder(
        config: Config,
        dataplane: D,
        now: Instant,
        recorder: Recorder,
    ) -> Result<Self> {
        let drained = Drained::load(&config.node.state_dir)?;
        let weights = Weights::load(&config.node.state_dir)?;
        let adopted = !dataplane.services().is_empty();
        let mut controller = Self {
            numbers: Numbers::default(),
            regions: Regions::default(),
            policies: Vec::new(),
            shedding: Shedding::default(),
            flights: Flights::default(),
            tables: Vec::new(),
            known: HashMap::new(),
            made: Made::default(),
            unsettled: Unsettled::default(),
            drained,
            weights,
            tuning: Tuning::default(),
            remembered: HashMap::new(),
            counted: None,
            recorder,
            passive: Readings::default(),
            frozen: adopted.then_some(now + FROZEN),
            swept: now,
            sweeping: false,
            nat_entries: 0,
            handover: None,
            balances: HashMap::new(),
            steps: true,
            balanced: now,
            stepping: None,
            rates: Rates::default(),
            silent: HashSet::new(),
            full: HashMap::new(),
            concern: Concern::default(),
            leaving: false,
            panicking: HashSet::new(),
            revived: HashSet::new(),
            seen: Seen::default(),
            questionable: BTreeSet::new(),
            requests: Vec::new(),
            contradicted: 0,
            outliers: OutlierDetection::default(),
            shares: HashMap::new(),
            why: Decisions::default(),
            quiet: Quiet::default(),
            config,
            dataplane,
        };
        let config = controller.config.clone();
        controller.reconfigure(config, now)?;
        Ok(controller)
    }

    /// Takes another configuration. On an error nothing has changed.
    ///
    /// # Errors
    /// If it needs more than the data path holds.
    pub fn reconfigure(&mut self, config: Config, now: Instant) -> Result<()> {
        let numbers = Numbers::assign(&config, &self.dataplane)?;
        let regions = self.regions.with(&config, &numbers, &self.dataplane)?;
        let (mut placed, mut ops) = placement::place(&self.dataplane, &config, &numbers)?;
        let policies = config.policy_ids();
        for (policy, id) in placed.iter_mut().zip(&policies) {
            policy.regions = regions.mask(config.policy(*id).regions);
        }
        desired::keep_nat(&mut placed, &self.dataplane);
        let limits = desired::admit(&config, &policies, &mut placed)?;
        self.dataplane.set_cid_keys(&cids::keys(&config))?;
        ops.extend(numbers.fresh.iter().copied().map(Op::Clear));
        let tables: Vec<_> = placed.iter().map(placement::table).collect();
        let (mut services, classes) = desired::split(&config, &policies, placed);
        services.extend(desired::nat_sources(&config));
        services.extend(desired::addresses(&services));
        self.known = self.known_of(&config, now);
        self.seen.go_on(&self.config, &config, &numbers);
        self.outliers = OutlierDetection::new(&config);
        self.questionable = (0..config.backends.len()).collect();
        self.requests.clear();
        self.config = config;
        self.numbers = numbers;
        self.regions = regions;
        self.policies = policies;
        self.concern = Concern::of(&self.config, &self.policies);
        self.leaving = !self.retired().is_empty();
        self.reshuffle_shedding();
        self.tables = tables;
        self.made.forget();
        self.stepping = None;
        self.revived.clear();
        self.forget_balances();
        ops.push(Op::Sources(self.config.nat.addresses.clone()));
        ops.push(Op::Denied(self.config.admission.deny.clone()));
        ops.push(Op::Settings(self.settings()));
        ops.extend(self.nat_idle_ops());
        ops.push(Op::Cids(self.cids()));
        ops.push(Op::Publish(services, classes, limits));
        ops.extend(self.member_ops());
        self.apply(ops)?;
        self.measure_members();
        self.handover = Some(now + HANDOVER);
        let backends = &self.known;
        let names = self.policies.iter().map(|id| self.config.policy(*id));
        let names: HashSet<String> = names.map(|policy| policy.name()).collect();
        self.recorder.retain(
            |name| backends.contains_key(name),
            |name| names.contains(name),
        );
        self.unsettled.retain(&self.tables);
        for range in &self.tables {
            self.unsettled.adopt(&self.dataplane, range.clone(), now);
        }
        self.replan(now, "configuration")
    }

    pub(super) fn apply(&mut self, mut ops: Vec<Op>) -> Result<()> {
        plan::order(&mut ops);
        for op in &ops {
            plan::apply(&mut self.dataplane, op)?;
        }
        Ok(())
    }

    /// Takes a measurement. Members' states change at once, tables behind them.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn measure(&mut self, mut measurement: Measurement) -> Result<()> {
        let Some(known) = self.known.get_mut(&measurement.backend) else {
            return Ok(());
        };
        // By the journal's clock, so that it is decided again alike.
        measurement.at = self.recorder.on_clock(measurement.at);
        let measurement = &measurement;
        self.recorder.keep(known, measurement);
        let change = known.measure(measurement);
        let is_in_question = known.is_in_question();
        if let Some(place) = self.concern.place(&measurement.backend)
            && is_in_question
        {
            self.questionable.insert(place);
            self.request_connection(place, measurement.at);
        }
        if !change.any() {
            return if is_in_question && self.rejudge(&measurement.backend, measurement.at) {
                self.replan_of(&measurement.backend, measurement.at)
            } else {
                Ok(())
            };
        }
        let Some(known) = self.known.get(&measurement.backend) else {
            return Ok(());
        };
        self.recorder.backend(measurement, &change, known);
        let rtt = known.rtt();
        let failure = known.failure.as_ref().map(ToString::to_string);
        info!(
            backend = measurement.backend,
            changes = %change,
            rtt_us = rtt.map(|rtt| rtt.as_micros() as u64),
            failure,
            "backend changed"
        );
        self.note_change(&measurement.backend, &change);
        let is_rejudged = self.rejudge(&measurement.backend, measurement.at);
        if change.came_back() {
            self.warm_up(&measurement.backend);
        }
        let only_hot = Change {
            hot: change.hot,
            ..Change::default()
        };
        let only_ring = Change {
            ring: change.ring,
            ..Change::default()
        };
        if change == only_hot && !is_rejudged {
            // The kernel does the rest.
            self.reheat(&measurement.backend)?;
        } else if !is_rejudged
            && change == only_ring
            && change.ring.is_some_and(|(before, _)| before.is_some())
        {
            // What may wait is not what the time until all is written is about.
            self.move_rings(&measurement.backend);
            return Ok(());
        } else {
            self.replan_of(&measurement.backend, measurement.at)?;
        }
        self.concern.note(measurement.at);
        Ok(())
    }

    /// Takes the way to a backend, as routing and neighbours are now.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn set_way(&mut self, name: &str, way: Option<NextHop>) -> Result<()> {
        let Some(known) = self.known.get_mut(name) else {
            return Ok(());
        };
        if known.way == Some(way) {
            return Ok(());
        }
        info!(backend = name, way = ?way, "way to backend changed");
        known.way = Some(way);
        let event = Event::Way {
            backend: name.to_owned(),
            interface: way.map(|hop| hop.interface),
        };
        self.recorder.tell(event);
        if let Some(hop) = way {
            self.dataplane.add_port(hop.interface)?;
        }
        let ops = self.member_ops_of(name);
        self.apply(ops)
    }

    /// Writes members' states, and tables where they follow.
    pub(super) fn replan(&mut self, now: Instant, why: &str) -> Result<()> {
        self.look_for_panic();
        let ops = self.member_ops();
        self.apply(ops)?;
        if !self.thaw(now) {
            return Ok(());
        }
        for index in 0..self.policies.len() {
            self.step(index, Cause::Loss, now);
            self.retable(index, why, now);
        }
        let ops = self.retired_ops(now);
        self.apply(ops)
    }

    /// Whether tables may change: all backends are measured, or it was waited for them long enough.
    pub(super) fn thaw(&mut self, now: Instant) -> bool {
        let Some(until) = self.frozen else {
            return true;
        };
        let measured = |b: &crate::config::Backend| {
            let known = self.known.get(&b.name);
            known.is_some_and(|known| known.health(b) != State::Unknown)
        };
        if now < until && !self.config.backends.iter().all(measured) {
            return false;
        }
        self.frozen = None;
        true
    }

    /// Does what is due by time alone.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub fn tick(&mut self, now: Instant) -> Result<()> {
        self.end_drains(now)?;
        if self.frozen.is_some_and(|until| now >= until) {
            self.replan(now, "backends that do not answer")?;
        }
        if self.handover.take_if(|until| now >= *until).is_some() && self.frozen.is_none() {
            let ops = self.retired_ops(now);
            self.apply(ops)?;
        }
        self.shed(now);
        let idle = |id: &PolicyId| self.config.services[id.service].idle_timeout;
        let tables = self.tables.iter().cloned();
        let tables: Vec<_> = tables.zip(self.policies.iter().map(idle)).collect();
        self.unsettled.settle_all(&mut self.dataplane, &tables, now);
        let every = self.tuning.sweep_every.unwrap_or(SWEEP_EVERY);
        // One at a time: the marks on the slots are those of the sweep that is under way.
        if !self.sweeping && now.saturating_duration_since(self.swept) >= every {
            self.swept = now;
            self.sweep()?;
            self.sweeping = true;
        }
        if let Some(sweep) = self.dataplane.swept() {
            self.sweeping = false;
            let sweep = sweep?;
            slots::untrack(&mut self.dataplane, &self.tables, &sweep);
            self.nat_entries = sweep.nat_flows.iter().map(|n| *n as usize).sum();
            self.note_flows(&sweep);
            self.correct_in_flight(&sweep);
            self.passive.take(&sweep);
            if self.passive.lacks {
                self.measure_members();
            }
            self.release(&sweep, now)?;
        }
        Ok(())
    }

    /// The settings in the kernel, with the seeds that the data path has: with another one all flows would go
    /// elsewhere at once.
    fn settings(&self) -> Settings {
        let present = self.dataplane.config();
        let settings = Settings {
            flow_seed: present.flow_seed,
            ..self.tuning.settings(&self.config)
        };
        with_nat_seed(settings, &present)
    }

    /// Brings the kernel what was set.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(super) fn retune(&mut self) -> Result<()> {
        let mut ops = vec![Op::Settings(self.settings())];
        ops.extend(self.nat_idle_ops());
        self.apply(ops)
    }

    /// Does what is due by time, and soon: takes in what connections tell of backends, and makes the
    /// steps of the weights.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub fn look(&mut self, now: Instant) -> Result<()> {
        self.watch_all(now)?;
        self.rejudge_questionable(now)?;
        self.catch_up(now)?;
        self.balance(now)
    }

    fn sweep(&mut self) -> Result<()> {
        slots::begin_sweep(&mut self.dataplane, &self.tables);
        self.note_in_flight();
        self.dataplane.sweep(SweepLimits {
            flow_idle_ms: desired::idle_ms(&self.config),
            nat: self.tuning.settings(&self.config).nat_timeouts,
            nat_idle: self.nat_idle(),
            silence: self.config.nat.silence,
        })
    }

    /// What there is to see.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn status(&self, now: Instant) -> Result<Status> {
        status::of(self, now)
    }

    /// What the data path does with a packet, in words.
    pub fn explain(&self, question: &Question) -> Explanation {
        explain(&self.dataplane, question, self)
    }

    /// What the data path does with a whole packet, in words.
    pub fn explain_packet(&self, question: &PacketQuestion) -> Explanation {
        explain_packet(&self.dataplane, question, self)
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl<D> Names for Controller<D> {
    fn member(&self, id: u16) -> Option<String> {
        let found = self.numbers.members.iter().find(|(_, m)| **m == id);
        found.map(|((_, backend), _)| self.config.backends[*backend].name.clone())
    }

    fn service(&self, id: u16) -> Option<String> {
        let found = self
            .numbers
            .policies
            .iter()
            .position(|number| *number == id);
        found.map(|index| self.config.policy(self.policies[index]).name())
    }

    fn class(&self, id: u16, client: IpAddr, dscp: u8) -> Option<String> {
        let index = self.numbers.policies.iter().position(|n| *n == id)?;
        let class = self.config.policy(self.policies[index]).class?;
        Some(class.because(client, dscp))
    }

    fn interface(&self, index: u32) -> Option<String> {
        let mut interfaces = self.config.node.interfaces.iter();
        interfaces
            .find(|name| interface_index(name).is_ok_and(|found| found == index))
            .cloned()
    }
}
