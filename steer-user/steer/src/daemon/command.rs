//! Commands to the event loop, and their execution.

use std::time::{Instant, SystemTime};

use anyhow::Result;
use steer_core::control::{CommandError, Decision, Drain, MemberPassive, Readiness, Status};
use steer_dataplane::MapMemory;
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::Configure,
    event_loop::Daemon,
    settings::{SettingStatus, TuneError},
    trace::{TraceReply, TraceRequest},
};
use crate::explain::{Explanation, Question};

/// Commands to the event loop.
#[derive(Debug)]
pub enum Command {
    /// Get the status.
    Status(oneshot::Sender<Result<Status>>),
    /// Trace packets; with who asks.
    Trace(TraceRequest, String, TraceReply),
    /// Get the memory of each map.
    Memory(oneshot::Sender<Result<Vec<MapMemory>>>),
    /// Explain what the data path does with a packet.
    Explain(Question, oneshot::Sender<Explanation>),
    /// Explain what the data path does with a whole packet that comes in by an interface: by the first one if none
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
        oneshot::Sender<Result<Vec<String>, CommandError>>,
    ),
    /// Give a backend a weight in place of its capacity, or take it back; with who says so. The answer says what
    /// is not saved.
    Weigh(
        String,
        Option<u32>,
        String,
        oneshot::Sender<Result<Vec<String>, CommandError>>,
    ),
    /// Get the settings that can be overridden.
    Settings(oneshot::Sender<Vec<SettingStatus>>),
    /// Set something, or without a value set it to its default.
    Tune {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
        /// User who asks.
        by: String,
        /// Sender of the answer.
        reply: oneshot::Sender<Result<SettingStatus, TuneError>>,
    },
    /// Get the last decisions about a backend.
    Why(String, oneshot::Sender<Result<Vec<Decision>, CommandError>>),
    /// Compare, apply, confirm or roll back a configuration.
    Configure(Configure),
    /// Get measurements of members by their packets.
    Passive(oneshot::Sender<Result<Vec<MemberPassive>>>),
    /// Get the readiness of the daemon. That it answers at all says that the loop lives.
    Ready(oneshot::Sender<Readiness>),
}

/// Sender of commands.
pub type Commands = mpsc::Sender<Command>;

impl Daemon {
    /// Obeys a command. A receiver that no longer waits for the answer is no error.
    pub(crate) fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Status(reply) => {
                let status = self.controller.view().status(now).map(|status| Status {
                    generation: self.in_use.number,
                    confirm_by: self.confirm_by(),
                    unsaved: self.unsaved(),
                    attached: self.attached.clone(),
                    traced_by: self.trace.by(),
                    ..status
                });
                drop(reply.send(status));
            }
            Command::Trace(request, by, reply) => self.begin_trace(&request, by, reply),
            Command::Memory(reply) => drop(reply.send(self.attacher.memory())),
            Command::Explain(question, reply) => {
                drop(reply.send(self.explain(&question)));
            }
            Command::ExplainPacket(bytes, interface, reply) => {
                drop(reply.send(self.explain_packet(bytes, interface)));
            }
            Command::Drain(name, drain, by, reply) => {
                let done = self.controller.drain(&name, drain, &by, now);
                drop(reply.send(self.saved(done)));
            }
            Command::Weigh(name, weight, by, reply) => {
                let done = self.controller.weigh(&name, weight, &by, now);
                drop(reply.send(self.saved(done)));
            }
            Command::Settings(reply) => drop(reply.send(self.settings())),
            Command::Tune {
                name,
                value,
                by,
                reply,
            } => drop(reply.send(self.tune(&name, value.as_deref(), &by))),
            Command::Why(name, reply) => drop(reply.send(self.controller.view().decisions(&name))),
            Command::Configure(ask) => self.configure(ask),
            Command::Passive(reply) => drop(reply.send(self.controller.view().passive())),
            Command::Ready(reply) => {
                drop(reply.send(self.controller.view().readiness(&self.attached)));
            }
        }
    }

    /// Saves what the operator set; the answer says what could not be saved.
    fn saved(&mut self, done: Result<(), CommandError>) -> Result<Vec<String>, CommandError> {
        self.operator_files.save(self.controller.view().operator());
        done.map(|()| self.operator_files.unsaved())
    }

    /// Reasons why drains, weights or the generation in use are not saved.
    fn unsaved(&self) -> Vec<String> {
        let mut unsaved = self.operator_files.unsaved();
        let generation = self.in_use.unsaved.as_ref();
        unsaved.extend(generation.map(|(_, why)| why.clone()));
        unsaved
    }

    fn confirm_by(&self) -> Option<SystemTime> {
        self.in_use.deadline?;
        let trial = self.store.active().and_then(|s| s.pending.as_ref());
        trial.map(|trial| trial.until)
    }
}
