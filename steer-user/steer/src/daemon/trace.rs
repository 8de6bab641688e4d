//! Traces of packets: one user at a time.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use steer_common::{
    abi::{Address, TRACE_SERVICES, TraceFilter, TraceVerdict},
    data_path_log::LogLevel,
    verdict::DropReason,
};
use steer_core::{control::Controller, dataplane::Dataplane};
use steer_dataplane::{DataPathLog, TraceEvents, TracePrograms, interface_index};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

use super::event_loop::Daemon;

/// Packets that a user wants to see. Filters that are left out let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TraceRequest {
    /// One of a packet's addresses lies in this prefix.
    #[schemars(with = "Option<String>")]
    pub address: Option<IpNet>,
    /// One of its ports.
    pub port: Option<u16>,
    /// Its protocol's number.
    pub protocol: Option<u8>,
    /// The name of its service.
    pub service: Option<String>,
    /// The name of its backend.
    pub backend: Option<String>,
    /// Verdict: "passed", "dropped", "sent", "answered". Any of those that are named.
    pub verdicts: Vec<String>,
    /// Reason why it is dropped or answered, by the names of the counters. Any of those that are named.
    pub reasons: Vec<String>,
    /// One in so many of them.
    pub sample: Option<u32>,
    /// Number of packets after which it ends.
    pub count: Option<u64>,
}

/// Reason why nothing is traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Somebody else does.
    #[error("{0} is tracing; one can at a time")]
    Busy(String),
    /// The request names something that there is not.
    #[error("{0}")]
    Unknown(String),
    /// The kernel refuses.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// Sender of the answer.
pub type TraceReply = oneshot::Sender<Result<Tracing, TraceError>>;

/// Events for as long as it lives. With it the tracing ends.
pub struct Tracing {
    /// The events.
    pub events: TraceEvents,
    /// Names of the numbers in events.
    pub names: watch::Receiver<Arc<TraceNames>>,
    /// Held for its end.
    pub lease: Lease,
}

impl std::fmt::Debug for Tracing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracing").finish_non_exhaustive()
    }
}

/// The right to trace; who drops it gives it back.
#[derive(Debug)]
pub struct Lease(mpsc::UnboundedSender<News>);

impl Drop for Lease {
    fn drop(&mut self) {
        // A loop that ends puts the usual programs back by itself.
        let _ = self.0.send(News::Ended);
    }
}

/// Names of the numbers in events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceNames {
    /// Services, and classes of services.
    pub services: HashMap<u16, String>,
    /// Backends, by member.
    pub members: HashMap<u16, String>,
    /// Interfaces of the configuration.
    pub interfaces: HashMap<u32, String>,
}

/// Events beside the loop.
pub(crate) enum News {
    Loaded(
        anyhow::Result<Box<(TracePrograms, TraceEvents)>>,
        TraceReply,
    ),
    Ended,
    /// The copy for records of the data path was loaded, for a level.
    LogLoaded(LogLevel, anyhow::Result<Box<(TracePrograms, DataPathLog)>>),
}

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loaded(..) => "Loaded",
            Self::Ended => "Ended",
            Self::LogLoaded(..) => "LogLoaded",
        })
    }
}

/// The loop's side.
pub(crate) struct Trace {
    /// User who traces, or is about to.
    by: Option<String>,
    /// Whether the programs that trace are attached.
    attached: bool,
    tell: mpsc::UnboundedSender<News>,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
    names: watch::Sender<Arc<TraceNames>>,
    /// Level of records of the data path.
    log_level: LogLevel,
    /// Reader of these records, while the copy is attached for them.
    log_reader: Option<JoinHandle<()>>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        Self {
            by: None,
            attached: false,
            tell,
            news,
            names: watch::Sender::default(),
            log_level: LogLevel::Off,
            log_reader: None,
        }
    }

    /// Returns the level of records of the data path.
    pub(crate) const fn log_level(&self) -> LogLevel {
        self.log_level
    }

    /// User who traces.
    pub(crate) fn by(&self) -> Option<String> {
        self.by.clone().filter(|_| self.attached)
    }
}

impl Daemon {
    /// Begins to trace for somebody.
    pub(crate) fn begin_trace(&mut self, request: &TraceRequest, by: String, reply: TraceReply) {
        if let Some(other) = &self.trace.by {
            let _ = reply.send(Err(TraceError::Busy(other.clone())));
            return;
        }
        let filter = match filter(request, &self.controller) {
            Ok(filter) => filter,
            Err(what) => {
                let _ = reply.send(Err(TraceError::Unknown(what)));
                return;
            }
        };
        let tracer = match self.attacher.tracer() {
            Ok(tracer) => tracer,
            Err(error) => {
                let _ = reply.send(Err(TraceError::Failed(error)));
                return;
            }
        };
        self.stop_data_path_log();
        info!(
            by,
            service = request.service,
            backend = request.backend,
            sample = request.sample,
            count = request.count,
            "tracing begins"
        );
        self.trace.by = Some(by);
        let tell = self.trace.tell.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = tracer.load(&filter).map(Box::new);
            // The loop has ended otherwise.
            let _ = tell.send(News::Loaded(loaded, reply));
        });
    }

    /// Takes note of what happened beside the loop.
    pub(crate) fn trace_news(&mut self, news: News) {
        match news {
            News::Loaded(loaded, reply) => {
                let attached = loaded.and_then(|loaded| {
                    let (programs, events) = *loaded;
                    self.attacher.trace(programs)?;
                    Ok(events)
                });
                let tracing = match attached {
                    Ok(events) => {
                        self.trace.attached = true;
                        self.name_for_traces();
                        Ok(Tracing {
                            events,
                            names: self.trace.names.subscribe(),
                            lease: Lease(self.trace.tell.clone()),
                        })
                    }
                    Err(error) => {
                        self.trace.by = None;
                        self.resume_data_path_log();
                        Err(TraceError::Failed(error))
                    }
                };
                // Who does not wait any more drops the lease with the answer.
                drop(reply.send(tracing));
            }
            News::Ended => {
                self.end_trace();
                self.resume_data_path_log();
            }
            News::LogLoaded(level, loaded) => {
                if let Err(error) = self.attach_data_path_log(level, loaded) {
                    self.trace.log_level = LogLevel::Off;
                    let error = format!("{error:#}");
                    warn!(error, "the data path does not log");
                }
            }
        }
    }

    /// Changes the level of records of the data path.
    pub(crate) fn set_data_path_log(&mut self, level: LogLevel) -> anyhow::Result<()> {
        // A trace has the copy to itself.
        if self.trace.by.is_some() {
            self.trace.log_level = level;
            return Ok(());
        }
        let before = std::mem::replace(&mut self.trace.log_level, level);
        self.stop_data_path_log();
        let started = self.start_data_path_log();
        if started.is_err() {
            self.trace.log_level = before;
            self.resume_data_path_log();
        }
        started
    }

    /// Loads the copy for records of the data path, unless its level is off.
    fn start_data_path_log(&mut self) -> anyhow::Result<()> {
        let level = self.trace.log_level;
        if level == LogLevel::Off {
            return Ok(());
        }
        let tracer = self.attacher.tracer()?;
        let tell = self.trace.tell.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = tracer.load_log(level).map(Box::new);
            // The loop has ended otherwise.
            let _ = tell.send(News::LogLoaded(level, loaded));
        });
        Ok(())
    }

    fn resume_data_path_log(&mut self) {
        if let Err(error) = self.start_data_path_log() {
            let error = format!("{error:#}");
            warn!(error, "the data path does not log");
        }
    }

    fn stop_data_path_log(&mut self) {
        if let Some(reader) = self.trace.log_reader.take() {
            reader.abort();
            self.attacher.end_trace();
        }
    }

    /// Attaches the copy for records of the data path, if it is still wanted.
    fn attach_data_path_log(
        &mut self,
        level: LogLevel,
        loaded: anyhow::Result<Box<(TracePrograms, DataPathLog)>>,
    ) -> anyhow::Result<()> {
        if self.trace.by.is_some() || self.trace.log_level != level {
            return Ok(());
        }
        let (programs, log) = *loaded?;
        self.stop_data_path_log();
        // SAFETY: the descriptor is that of the ring, which keeps it open.
        let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }?;
        self.attacher.trace(programs)?;
        self.trace.log_reader = Some(tokio::spawn(read_data_path_log(log)));
        info!(level = level.name(), "the data path logs");
        Ok(())
    }

    pub(crate) fn end_trace(&mut self) {
        self.attacher.end_trace();
        self.trace.attached = false;
        if let Some(by) = self.trace.by.take() {
            info!(by, "tracing ends");
        }
    }

    /// Tells those who trace what numbers stand for now.
    pub(crate) fn name_for_traces(&self) {
        if self.trace.by.is_none() {
            return;
        }
        let mut names = names(&self.controller);
        for interface in &self.controller.view().config().node.interfaces {
            match interface_index(interface) {
                Ok(index) => drop(names.interfaces.insert(index, interface.clone())),
                Err(error) => warn!(interface, error = format!("{error:#}"), "not named"),
            }
        }
        self.trace.names.send_replace(Arc::new(names));
    }
}

/// Logs records of the data path as they arrive.
async fn read_data_path_log(mut log: AsyncFd<DataPathLog>) {
    loop {
        match log.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            Err(error) => {
                warn!(%error, "the data path's log cannot be read");
                return;
            }
        }
    }
}

fn names<D: Dataplane>(controller: &Controller<D>) -> TraceNames {
    let view = controller.view();
    TraceNames {
        services: view.policy_names(),
        members: view.member_names(),
        interfaces: HashMap::new(),
    }
}

/// The filter that a request means, by the numbers of the data path.
fn filter<D: Dataplane>(
    request: &TraceRequest,
    controller: &Controller<D>,
) -> Result<TraceFilter, String> {
    let view = controller.view();
    let mut filter = TraceFilter {
        sample: request.sample.unwrap_or(1).max(1),
        limit: request
            .count
            .map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
        port: request.port.unwrap_or(0),
        protocol: request.protocol.unwrap_or(0),
        ..TraceFilter::default()
    };
    if let Some(prefix) = request.address {
        let (address, mask) = prefix_of(prefix);
        filter.address = address;
        filter.mask = mask;
    }
    if let Some(name) = &request.service {
        let id = view.service_id(name);
        let number = id.ok_or_else(|| format!("no service is called {name:?}"))?;
        filter.services = [number; TRACE_SERVICES];
        let begins = format!("{name}/");
        let names = names(controller).services.into_iter();
        let mut classes = names.filter(|(_, class)| class.starts_with(&begins));
        for (place, (number, _)) in filter.services[1..].iter_mut().zip(&mut classes) {
            *place = number;
        }
        if classes.next().is_some() {
            return Err(format!(
                "service {name:?} has more than {} classes: filter by address or port",
                TRACE_SERVICES - 1
            ));
        }
    }
    if let Some(name) = &request.backend {
        let members = view.members_of(name);
        let members = members.ok_or_else(|| format!("no backend is called {name:?}"))?;
        let member = members.first();
        let member = member.ok_or_else(|| format!("no service uses backend {name:?}"))?;
        filter.backend = member.backend;
    }
    for verdict in &request.verdicts {
        filter.verdicts |= match verdict.as_str() {
            "passed" => bit(TraceVerdict::Passed),
            "dropped" => bit(TraceVerdict::Dropped),
            "sent" => bit(TraceVerdict::Transmitted) | bit(TraceVerdict::Redirected),
            "answered" => bit(TraceVerdict::Answered),
            other => {
                return Err(format!(
                    "{other:?} is no verdict: write passed, dropped, sent or answered"
                ));
            }
        };
    }
    for name in &request.reasons {
        let reason = DropReason::ALL.into_iter().find(|r| r.name() == name);
        let reason = reason.ok_or_else(|| {
            let names: Vec<&str> = DropReason::ALL.iter().map(|r| r.name()).collect();
            format!("{name:?} is no reason: write one of {}", names.join(", "))
        })?;
        filter.reasons |= 1 << reason as u8;
    }
    Ok(filter)
}

const fn bit(verdict: TraceVerdict) -> u8 {
    1 << verdict as u8
}

/// A prefix as address and mask, IPv4 as the maps have it.
fn prefix_of(prefix: IpNet) -> (Address, [u64; 2]) {
    let len = match prefix {
        IpNet::V4(prefix) => 96 + u32::from(prefix.prefix_len()),
        IpNet::V6(prefix) => u32::from(prefix.prefix_len()),
    };
    let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
    let mask = Address::from(IpAddr::from(mask.to_be_bytes()));
    (prefix.addr().into(), mask.words())
}

#[cfg(test)]
mod tests {
    use steer_common::abi::FlowKey;

    use super::*;

    #[test]
    fn prefixes_fit_what_lies_in_them() {
        let fits = |prefix: &str, address: &str| {
            let (address_of, mask) = prefix_of(prefix.parse().unwrap());
            let filter = TraceFilter {
                address: address_of,
                mask,
                ..TraceFilter::default()
            };
            let address: IpAddr = address.parse().unwrap();
            filter.takes_flow(&FlowKey {
                destination: address.into(),
                family: 4,
                ..FlowKey::default()
            })
        };
        assert!(fits("10.1.2.0/24", "10.1.2.255"));
        assert!(!fits("10.1.2.0/24", "10.1.3.1"));
        assert!(fits("10.1.2.3/32", "10.1.2.3"));
        assert!(!fits("10.1.2.3/32", "10.1.2.2"));
        assert!(fits("0.0.0.0/0", "10.1.2.3"));
        assert!(!fits("0.0.0.0/0", "fd00::1"));
        assert!(fits("fd00::/16", "fd00:1::2"));
        assert!(!fits("fd00::/16", "fe00::2"));
        assert!(fits("::/0", "10.1.2.3"));
    }
}
