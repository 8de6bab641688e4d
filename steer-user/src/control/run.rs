//! The loop itself: one task that owns the state, and what tells it of the world.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use steer_probe::probe::{Inbox, mailbox};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use super::{
    Attachment, Configure, ConfigureError, Controller, Decision, Drain, KnobStatus, MemberPassive,
    Meters, Prepared, Readiness, Refused, Status, TuneError,
    configure::{Fallback, InUse, Reload},
    controller::LOOK,
    drained::Drained,
    interfaces,
    meters::Turn,
    probing::{Confirmed, Probing},
    recorder::Recorder,
    routers, seeds, status,
    trace::{Trace, TraceReply, TraceRequest},
    ways,
    weights::Weights,
};
use crate::{
    config::Config,
    dataplane::{
        Attacher, Changes, Dataplane as _, IcmpSources, KernelMaps, MapMemory, Neighbours,
        OwnLinks, Sizes, Xdp, interface_index,
    },
    explain::{Explanation, Question},
    generations::{Started, Store},
    journal::{Event, Journal, Why},
};

/// How often things are done that are due by time alone.
pub const TICK: Duration = Duration::from_secs(1);
/// Measurements that may wait for the loop: more than come in a [`LOOK`].
pub(super) const MEASUREMENTS: usize = 1024;

/// Outcomes of connections that may wait for the loop.
const CONFIRMATIONS: usize = 64;

/// What may be asked of the loop.
#[derive(Debug)]
pub enum Command {
    /// What there is to see.
    Status(oneshot::Sender<Result<Status>>),
    /// Tell of packets; with who asks.
    Trace(TraceRequest, String, TraceReply),
    /// The memory of each map.
    Memory(oneshot::Sender<Result<Vec<MapMemory>>>),
    /// What the data path does with a packet.
    Explain(Question, oneshot::Sender<Explanation>),
    /// What the data path does with a whole packet that comes in by an interface: by the first one if none
    /// is named.
    ExplainPacket(
        Vec<u8>,
        Option<String>,
        oneshot::Sender<Result<Explanation>>,
    ),
    /// Drain a backend, or stop draining it; with who says so. The answer says what is not saved.
    Drain(
        String,
        Option<Drain>,
        String,
        oneshot::Sender<Result<Vec<String>, Refused>>,
    ),
    /// Give a backend a weight in place of its capacity, or take it back; with who says so. The answer says what
    /// is not saved.
    Weigh(
        String,
        Option<u32>,
        String,
        oneshot::Sender<Result<Vec<String>, Refused>>,
    ),
    /// What can be set, as it is set?
    Knobs(oneshot::Sender<Vec<KnobStatus>>),
    /// Set something, or without a value set it to its default.
    Tune {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
        /// Who asks.
        by: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<KnobStatus, TuneError>>,
    },
    /// The last decisions about a backend.
    Why(String, oneshot::Sender<Result<Vec<Decision>, Refused>>),
    /// Something about the configuration.
    Configure(Configure),
    /// What do packets tell of members?
    Passive(oneshot::Sender<Result<Vec<MemberPassive>>>),
    /// Is the daemon ready to be relied on? That it answers at all says that the loop lives.
    Ready(oneshot::Sender<Readiness>),
}

/// The way to ask.
pub type Commands = mpsc::Sender<Command>;

/// What a daemon begins with.
pub struct Setup {
    /// Its configuration file.
    pub file: PathBuf,
    /// The configuration, and where it comes from.
    pub started: Started,
    /// The generations.
    pub store: Store,
    /// Whether the command line says where the state directory is, and not the configuration.
    pub state_is_given: bool,
    /// The journal, and how many torn bytes were cut off it.
    pub journal: (Journal, u64),
    /// Who wants to know what is configured: called at the start and after each change.
    pub configured: Configured,
    /// Who wants to know that the loop goes round: called once the node steers, and then at every
    /// [`TICK`].
    pub life: Life,
    /// What counts for `/metrics`.
    pub meters: Meters,
}

/// Is called by the loop itself, so that it is silent when the loop hangs.
pub type Life = Box<dyn FnMut(Pulse) + Send>;

/// What the loop says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The program is attached, and the configuration in the maps; with how the node is.
    Steering(String),
    /// The loop went round; with how the node is.
    Alive(String),
    /// It ends.
    Stopping,
}

/// Is called with a configuration that was put to work.
pub type Configured = Box<dyn Fn(&Config) + Send>;

/// Attaches the program and runs the loop until SIGTERM or SIGINT. The program stays.
///
/// # Errors
/// If the data path or the certificates cannot be used.
pub async fn run(setup: Setup, xdp: Xdp, commands: mpsc::Receiver<Command>) -> Result<()> {
    let Setup {
        file,
        started,
        store,
        state_is_given,
        journal: (journal, cut),
        configured: listener,
        mut life,
        meters,
    } = setup;
    let config = started.config;
    let adopted = xdp.adopted();
    let sizes = xdp.sizes();
    let (mut attacher, mut maps) = xdp.into_parts();
    seeds::initialize(&config.node, &mut maps)?;
    let mut own_links = OwnLinks::default();
    let attached = interfaces::attach(&mut attacher, &mut maps, &mut own_links, &config)?;
    attacher.settle()?;
    let trial = store.standing().and_then(|standing| standing.trial.clone());
    let deadline = trial
        .as_ref()
        .map(|t| Instant::now() + t.left(SystemTime::now()));
    journal.tell(Event::Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: config.node.name.clone(),
        adopted,
        cut,
    });
    let configured = Event::Configured {
        why: Why::Start,
        by: started.why.to_owned(),
        generation: started.number,
        fingerprint: started.document.fingerprint(),
        until: trial.map(|trial| trial.until),
        drained: Drained::load(&config.node.state_dir)?.names(),
        weights: Weights::load(&config.node.state_dir)?.all().clone(),
    };
    let recorder = Recorder::beginning(journal.clone(), configured);
    let controller = Controller::with_recorder(config, maps, Instant::now(), recorder)?;
    listener(controller.config());
    meters.configured(controller.config());
    let neighbours = Neighbours::new()?;
    let link_events = neighbours.changes();
    let links = interfaces::changes(neighbours.changes());
    let fingerprint = started.document.fingerprint();
    let fallback = fallback(
        &store,
        deadline.is_some(),
        state_is_given,
        controller.config(),
    );
    let (reload, reloaded) = mpsc::channel(1);
    let (tell_way, ways) = mpsc::channel(64);
    let (followers, followed) = watch::channel(targets(controller.config()));
    let (tell_routers, routers) = mpsc::channel(1);
    tokio::spawn(routers::follow(
        neighbours.clone(),
        followed.clone(),
        controller.dataplane.routers(),
        tell_routers,
    ));
    tokio::spawn(ways::follow(neighbours, followed, tell_way));
    let (measured, measurements) = mailbox(MEASUREMENTS);
    let (confirm, confirmed) = mpsc::channel(CONFIRMATIONS);
    let probing = Probing::start()?;
    let probers = probing.spawn(controller.config(), &measured)?;
    info!(
        node = controller.config().node.name,
        backends = controller.config().backends.len(),
        services = controller.config().services.len(),
        generation = started.number,
        "steering"
    );
    life(Pulse::Steering(status::pulse(&controller, started.number)));
    let daemon = Daemon {
        life,
        file,
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
        meters,
        reload: Reload::new(reload),
        in_use: InUse {
            document: Arc::new(started.document),
            fingerprint,
            number: started.number,
            fallback,
            deadline,
            unsaved: None,
        },
    };
    let ways = (ways, routers);
    daemon.run(commands, ways, links, reloaded, confirmed).await
}

/// Reads the generation that a pending one of an earlier daemon is reverted to.
fn fallback(
    store: &Store,
    is_pending: bool,
    state_is_given: bool,
    running: &Config,
) -> Option<Fallback> {
    let confirmed = store.standing().filter(|_| is_pending)?.confirmed;
    let found = store.generation(confirmed).map_err(|e| e.to_string());
    let read = found.and_then(|found| match found.document.config() {
        Ok(config) => Ok((found, config)),
        Err(error) => Err(error.to_string()),
    });
    match read {
        Ok((found, mut config)) => {
            if state_is_given {
                config.node.state_dir.clone_from(&running.node.state_dir);
            }
            Some(Fallback {
                number: confirmed,
                document: Arc::new(found.document),
                fingerprint: found.fingerprint,
                config,
                changes: Vec::new(),
                file: None,
            })
        }
        Err(error) => {
            error!(generation = confirmed, error, "cannot be gone back to");
            None
        }
    }
}

pub(super) struct Daemon {
    life: Life,
    pub(super) file: PathBuf,
    pub(super) controller: Controller<KernelMaps>,
    pub(super) attacher: Attacher,
    /// Interfaces of the configuration, in its order.
    pub(super) attached: Vec<Attachment>,
    pub(super) icmp_sources: IcmpSources,
    pub(super) own_links: OwnLinks,
    /// Counts events of interfaces.
    pub(super) link_events: watch::Receiver<Changes>,
    pub(super) trace: Trace,
    /// Entries of the tables of flows.
    pub(super) sizes: Sizes,
    pub(super) targets: watch::Sender<ways::Targets>,
    pub(super) measurements: Inbox,
    pub(super) probing: Probing,
    /// Where outcomes of connections that confirm something go.
    confirm: mpsc::Sender<Confirmed>,
    pub(super) probers: Vec<JoinHandle<()>>,
    pub(super) store: Store,
    pub(super) state_is_given: bool,
    pub(super) journal: Journal,
    pub(super) configured: Configured,
    pub(super) meters: Meters,
    pub(super) in_use: InUse,
    pub(super) reload: Reload,
}

impl Daemon {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        (mut ways, mut routers): (mpsc::Receiver<ways::Way>, mpsc::Receiver<routers::Update>),
        mut links: mpsc::Receiver<()>,
        mut reloaded: mpsc::Receiver<Result<Prepared, ConfigureError>>,
        mut confirmed: mpsc::Receiver<Confirmed>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let mut hangup = signal(SignalKind::hangup()).context("no SIGHUP handler")?;
        let mut tick = interval(TICK);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let begun;
            let (turn, done) = tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = look.tick() => {
                    self.measure();
                    begun = Instant::now();
                    (Turn::Look, self.controller.look(begun))
                }
                Some((request, outcome)) = confirmed.recv() => {
                    begun = Instant::now();
                    (Turn::Measurement, self.controller.answer_request(&request, outcome, begun))
                }
                () = self.measurements.urgent() => {
                    self.measure();
                    continue;
                }
                Some((name, way)) = ways.recv() => {
                    begun = Instant::now();
                    (Turn::Way, self.controller.set_way(&name, way))
                }
                Some(routers) = routers.recv() => {
                    begun = Instant::now();
                    (Turn::Way, self.controller.set_routers(routers))
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
                    self.controller.save_operator();
                    (self.life)(Pulse::Alive(status::pulse(&self.controller, self.in_use.number)));
                    (Turn::Tick, self.controller.tick(begun))
                }
            };
            self.done(turn, begun, done);
        }
        (self.life)(Pulse::Stopping);
        self.end_trace();
        for prober in self.probers {
            prober.abort();
        }
        self.journal.tell(Event::Stop);
        self.journal.flush();
        info!("stopped; the program goes on steering until `steer detach`");
        Ok(())
    }

    /// Takes the measurements that wait, but for those that would keep the rest waiting: where many backends die at
    /// once each has its tables made.
    fn measure(&mut self) {
        let first = Instant::now();
        while let Some(measurement) = self.measurements.take() {
            let begun = Instant::now();
            self.meters.probed(&measurement);
            let done = self.controller.measure(measurement);
            self.done(Turn::Measurement, begun, done);
            if first.elapsed() > LOOK {
                self.measurements.remind();
                return;
            }
        }
    }

    /// Counts a turn, and says what became of it.
    fn done(&mut self, turn: Turn, begun: Instant, done: Result<()>) {
        self.meters.took(turn, begun.elapsed());
        for request in self.controller.take_connection_requests() {
            self.probing.confirm(request, self.confirm.clone());
        }
        for measured in self.controller.take_written() {
            self.meters.written(measured.elapsed());
        }
        // Packets go on by what the maps say; the next change may do better.
        if let Err(error) = done {
            error!(
                error = format!("{error:#}"),
                "the data path was not written"
            );
        }
    }

    /// Answers; whoever does not wait for the answer any more has it their way.
    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Status(reply) => {
                let status = self.controller.status(now).map(|status| Status {
                    generation: self.in_use.number,
                    confirm_by: self.confirm_by(),
                    unsaved: [status.unsaved, self.unsaved()].concat(),
                    attached: self.attached.clone(),
                    traced_by: self.trace.by(),
                    ..status
                });
                drop(reply.send(status));
            }
            Command::Trace(request, by, reply) => self.begin_trace(&request, by, reply),
            Command::Memory(reply) => drop(reply.send(self.attacher.memory())),
            Command::Explain(question, reply) => {
                drop(reply.send(self.controller.explain(&question)));
            }
            Command::ExplainPacket(bytes, interface, reply) => {
                drop(reply.send(self.explain_packet(bytes, interface)));
            }
            Command::Drain(name, drain, by, reply) => {
                let done = self.controller.drain_by(&name, drain, &by, now);
                drop(reply.send(done.map(|()| self.controller.unsaved())));
            }
            Command::Weigh(name, weight, by, reply) => {
                let done = self.controller.weigh_by(&name, weight, &by, now);
                drop(reply.send(done.map(|()| self.controller.unsaved())));
            }
            Command::Knobs(reply) => drop(reply.send(self.knobs())),
            Command::Tune {
                name,
                value,
                by,
                reply,
            } => drop(reply.send(self.tune(&name, value.as_deref(), &by))),
            Command::Why(name, reply) => drop(reply.send(self.controller.why(&name))),
            Command::Configure(ask) => self.configure(ask),
            Command::Passive(reply) => drop(reply.send(self.controller.passive())),
            Command::Ready(reply) => {
                drop(reply.send(Readiness::of(&self.controller, &self.attached)));
            }
        }
    }

    /// Reasons why the generation in use is not saved.
    fn unsaved(&self) -> Vec<String> {
        let unsaved = self.in_use.unsaved.as_ref();
        unsaved.map(|(_, why)| why.clone()).into_iter().collect()
    }

    fn confirm_by(&self) -> Option<SystemTime> {
        self.in_use.deadline?;
        let trial = self.store.standing().and_then(|s| s.trial.as_ref());
        trial.map(|trial| trial.until)
    }
}

pub(super) fn targets(config: &Config) -> ways::Targets {
    let backends = config.backends.iter();
    let interfaces = config.node.interfaces.iter();
    ways::Targets {
        backends: backends.map(|b| (b.name.clone(), b.address)).collect(),
        // One that is gone by now comes back with another index, and another look at all this.
        attached: interfaces.flat_map(|name| interface_index(name)).collect(),
    }
}
