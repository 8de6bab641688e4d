//! The event loop: one task that owns the controller, and brings it events.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use steer_core::{
    config::{Backend, Config},
    control::{Attachment, Controller, Host, POLL_INTERVAL, Recorder, Start, WallClock},
    dataplane::SteeringTables as _,
    domain::balance::ConfiguredPolicy,
    generations::{Started, Store},
    journal::{Event, Journal, ReplanCause},
};
use steer_dataplane::{
    Attacher, Changes, IcmpSources, KernelMaps, Neighbours, OwnLinks, Sizes, Xdp, interface_index,
    possible_cpus,
};
use steer_probe::probe::{ResultReceiver, channel};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use super::{
    apply::{ApplyError, Fallback, InUse, Prepared, Reload},
    command::Command,
    flow_seed, interfaces,
    metrics::{DaemonMetrics, Turn},
    next_hops,
    probers::{Confirmed, Probing},
    readiness_sink::{NodeState, Pulse, ReadinessSink},
    routers,
    source::BackendSource,
    state_file::OperatorFiles,
    trace::Trace,
};

/// Interval of what is due by time alone.
pub const TICK: Duration = Duration::from_secs(1);
/// Measurements that may wait for the loop: more than come in a [`POLL_INTERVAL`].
pub(crate) const MEASUREMENTS: usize = 1024;

/// Outcomes of connections that may wait for the loop.
const CONFIRMATIONS: usize = 64;

/// All that a daemon begins with.
pub struct Setup {
    /// Source of its backends: the configuration file.
    pub source: Arc<dyn BackendSource>,
    /// The configuration, and where it comes from.
    pub started: Started,
    /// The generations.
    pub store: Store,
    /// Whether the command line says where the state directory is, and not the configuration.
    pub state_is_given: bool,
    /// The journal, and how many torn bytes were cut off it.
    pub journal: (Journal, u64),
    /// Called with the configuration at the start and after each change.
    pub configured: Configured,
    /// Sinks that announce the readiness of the node.
    pub sinks: Vec<Box<dyn ReadinessSink>>,
    /// DaemonMetrics of the daemon itself.
    pub metrics: DaemonMetrics,
}

/// Callback with a configuration that was applied.
pub type Configured = Box<dyn Fn(&Config) + Send>;

/// Attaches the program and runs the loop until SIGTERM or SIGINT. The program stays.
///
/// # Errors
/// If the data path or the certificates cannot be used.
pub async fn run(setup: Setup, xdp: Xdp, commands: mpsc::Receiver<Command>) -> Result<()> {
    let Setup {
        source,
        started,
        store,
        state_is_given,
        journal: (journal, cut),
        configured: listener,
        sinks,
        metrics,
    } = setup;
    let config = started.config;
    let adopted = xdp.adopted();
    let sizes = xdp.sizes();
    let (mut attacher, mut maps) = xdp.into_parts();
    flow_seed::initialize(&config.node, &mut maps)?;
    let mut own_links = OwnLinks::default();
    let attached = interfaces::attach(&mut attacher, &mut maps, &mut own_links, &config)?;
    attacher.settle()?;
    let trial = store.active().and_then(|standing| standing.pending.clone());
    let deadline = trial
        .as_ref()
        .map(|t| Instant::now() + t.left(SystemTime::now()));
    journal.record(Event::Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: config.node.name.clone(),
        adopted,
        cut,
    });
    let operator_files = OperatorFiles::read(&config.node.state_dir)?;
    let operator = operator_files.operator();
    let configured = Event::Configured {
        why: ReplanCause::Start,
        by: started.why.to_owned(),
        generation: started.number,
        fingerprint: started.document.fingerprint(),
        until: trial.map(|trial| trial.until),
        drained: operator.drains.keys().cloned().collect(),
        weights: operator.weights.clone(),
    };
    let now = Instant::now();
    let host = Host {
        cpus: possible_cpus(),
        clock: WallClock::new(now, SystemTime::now()),
    };
    let start = Start {
        operator,
        policy: Arc::new(ConfiguredPolicy),
        recorder: Recorder::starting(journal.clone(), host.clock, configured),
        host,
    };
    let controller = Controller::start(config, maps, start, now)?;
    listener(controller.view().config());
    metrics.configured(controller.view().config());
    let neighbours = Neighbours::new()?;
    let link_events = neighbours.changes();
    let links = interfaces::changes(neighbours.changes());
    let fingerprint = started.document.fingerprint();
    let fallback = Fallback::read(
        &store,
        deadline.is_some(),
        state_is_given,
        controller.view().config(),
    );
    let (reload, reloaded) = mpsc::channel(1);
    let (send_next_hop, next_hops) = mpsc::channel(64);
    let (followers, followed) = watch::channel(targets(controller.view().config()));
    let (tell_routers, routers) = mpsc::channel(1);
    tokio::spawn(routers::follow(
        // The kernel lists one table at a time for a socket, and refuses another list meanwhile.
        Neighbours::new()?,
        followed.clone(),
        controller.dataplane.routers(),
        tell_routers,
    ));
    tokio::spawn(next_hops::follow(neighbours, followed, send_next_hop));
    let (measured, measurements) = channel(MEASUREMENTS);
    let (confirm, confirmed) = mpsc::channel(CONFIRMATIONS);
    let probing = Probing::start()?;
    let probers = probing.spawn(controller.view().config(), &measured)?;
    info!(
        node = controller.view().config().node.name,
        backends = controller.view().config().backends.len(),
        services = controller.view().config().services.len(),
        generation = started.number,
        "steering"
    );
    let number = started.number;
    let mut daemon = Daemon {
        sinks,
        source,
        controller,
        attacher,
        attached,
        icmp_sources: IcmpSources::default(),
        own_links,
        link_events,
        trace: Trace::new(),
        sizes,
        targets: followers,
        measurements,
        probing,
        confirm,
        probers,
        store,
        state_is_given,
        journal,
        configured: listener,
        metrics,
        operator_files,
        cpus: host.cpus,
        reload: Reload::new(reload),
        in_use: InUse {
            document: Arc::new(started.document),
            fingerprint,
            number,
            fallback,
            deadline,
            unsaved: None,
        },
    };
    let state = daemon.node_state();
    daemon.announce(&Pulse::Steering(state));
    let next_hops = (next_hops, routers);
    daemon
        .run(commands, next_hops, links, reloaded, confirmed)
        .await
}

/// State of the event loop.
pub(crate) struct Daemon {
    sinks: Vec<Box<dyn ReadinessSink>>,
    pub(crate) source: Arc<dyn BackendSource>,
    pub(crate) controller: Controller<KernelMaps>,
    pub(crate) attacher: Attacher,
    /// Interfaces of the configuration, in its order.
    pub(crate) attached: Vec<Attachment>,
    pub(crate) icmp_sources: IcmpSources,
    pub(crate) own_links: OwnLinks,
    /// Counts events of interfaces.
    pub(crate) link_events: watch::Receiver<Changes>,
    pub(crate) trace: Trace,
    /// Entries of the tables of flows.
    pub(crate) sizes: Sizes,
    pub(crate) targets: watch::Sender<next_hops::Targets>,
    pub(crate) measurements: ResultReceiver,
    pub(crate) probing: Probing,
    /// Sender of outcomes of connections that confirm something.
    confirm: mpsc::Sender<Confirmed>,
    pub(crate) probers: Vec<JoinHandle<()>>,
    pub(crate) store: Store,
    pub(crate) state_is_given: bool,
    pub(crate) journal: Journal,
    pub(crate) configured: Configured,
    pub(crate) metrics: DaemonMetrics,
    pub(crate) operator_files: OperatorFiles,
    /// Number of possible CPUs.
    pub(crate) cpus: u32,
    pub(crate) in_use: InUse,
    pub(crate) reload: Reload,
}

impl Daemon {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        (mut next_hops, mut routers): (
            mpsc::Receiver<next_hops::Resolved>,
            mpsc::Receiver<routers::Update>,
        ),
        mut links: mpsc::Receiver<()>,
        mut reloaded: mpsc::Receiver<Result<Prepared, ApplyError>>,
        mut confirmed: mpsc::Receiver<Confirmed>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let mut hangup = signal(SignalKind::hangup()).context("no SIGHUP handler")?;
        let mut tick = interval(TICK);
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let begun;
            let (turn, done) = tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = poll.tick() => {
                    self.measure();
                    begun = Instant::now();
                    (Turn::Poll, self.controller.poll(begun))
                }
                Some((request, outcome)) = confirmed.recv() => {
                    begun = Instant::now();
                    (Turn::Measurement, self.controller.answer_request(&request, outcome, begun))
                }
                () = self.measurements.urgent() => {
                    self.measure();
                    continue;
                }
                Some((name, next_hop)) = next_hops.recv() => {
                    begun = Instant::now();
                    (Turn::NextHop, self.controller.set_next_hop(&name, next_hop, begun))
                }
                Some(routers) = routers.recv() => {
                    begun = Instant::now();
                    (Turn::NextHop, self.set_routers(routers))
                }
                Some(command) = commands.recv() => {
                    begun = Instant::now();
                    self.obey(command);
                    (Turn::Command, Ok(()))
                }
                Some(news) = self.trace.news.recv() => {
                    begun = Instant::now();
                    self.trace_news(news);
                    (Turn::Command, Ok(()))
                }
                Some(()) = links.recv() => {
                    begun = Instant::now();
                    self.watch_interfaces();
                    (Turn::Link, Ok(()))
                }
                _ = hangup.recv() => {
                    begun = Instant::now();
                    self.reload();
                    (Turn::Reload, Ok(()))
                }
                Some(read) = reloaded.recv() => {
                    begun = Instant::now();
                    self.reloaded(read);
                    (Turn::Reload, Ok(()))
                }
                _ = tick.tick() => {
                    begun = Instant::now();
                    self.watch_interfaces();
                    self.expire(begun);
                    self.save();
                    self.operator_files.save(self.controller.view().operator());
                    let state = self.node_state();
                    self.announce(&Pulse::Alive(state));
                    (Turn::Tick, self.controller.tick(begun))
                }
            };
            self.done(turn, begun, done);
            self.read_clock();
        }
        self.announce(&Pulse::Stopping);
        self.end_trace();
        for prober in self.probers {
            prober.abort();
        }
        self.journal.record(Event::Stop);
        self.journal.flush();
        info!("stopped; the program goes on steering until `steer detach`");
        Ok(())
    }

    /// Takes the measurements that wait, but for those that would keep the rest waiting: where many backends die at
    /// once each has its tables made.
    fn measure(&mut self) {
        let first = Instant::now();
        while let Some(measurement) = self.measurements.try_next() {
            let begun = Instant::now();
            self.metrics.probed(&measurement);
            let done = self.controller.measure(measurement);
            self.done(Turn::Measurement, begun, done);
            if first.elapsed() > POLL_INTERVAL {
                self.measurements.mark_urgent();
                return;
            }
        }
    }

    fn announce(&mut self, pulse: &Pulse) {
        self.sinks.iter_mut().for_each(|sink| sink.announce(pulse));
    }

    fn node_state(&self) -> NodeState {
        let view = self.controller.view();
        NodeState {
            summary: view.summary(self.in_use.number),
            readiness: view.readiness(&self.attached),
        }
    }

    /// Reads the wall clock for the controller.
    fn read_clock(&mut self) {
        let clock = WallClock::new(Instant::now(), SystemTime::now());
        self.controller.set_clock(clock);
    }

    /// Counts a turn, and logs its error.
    fn done(&mut self, turn: Turn, begun: Instant, done: Result<()>) {
        self.metrics.took(turn, begun.elapsed());
        for request in self.controller.take_connection_requests() {
            self.probing.confirm(request, self.confirm.clone());
        }
        for measured in self.controller.take_written() {
            self.metrics.written(measured.elapsed());
        }
        // Packets go on by what the maps say; the next change may do better.
        if let Err(error) = done {
            error!(
                error = format!("{error:#}"),
                "the data path was not written"
            );
        }
    }
}

pub(crate) fn targets(config: &Config) -> next_hops::Targets {
    let backends = config.backends.iter();
    let interfaces = config.node.interfaces.iter();
    next_hops::Targets {
        backends: backends.map(target).collect(),
        // One that is gone by now comes back with another index, and is attached to again.
        attached: interfaces.flat_map(|name| interface_index(name)).collect(),
    }
}

fn target(backend: &Backend) -> next_hops::Target {
    next_hops::Target {
        name: backend.name.clone(),
        address: backend.address,
        overhead: backend.mode.overhead(backend.address.is_ipv6()),
    }
}
