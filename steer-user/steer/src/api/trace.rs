//! Stream of live packets as lines of JSON, until the client disconnects.
//!
//! Nothing is buffered for a slow client: the ring in the kernel fills up, and events without room
//! are counted and reported.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::{Method, body::Bytes};
use serde::{Deserialize, Serialize};
use steer_common::{
    abi::{TRACE_ANY, TraceEvent, TraceVerdict, trace_steps},
    verdict::DropReason,
};
use steer_dataplane::TraceEvents;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use super::{
    Client, ClientError,
    access::Peer,
    server::{ApiError, call},
};
use crate::{
    daemon::{Command, Commands, TraceError, TraceNames, TraceRequest, Tracing},
    packet_words::hex,
};

/// Interval of reports about lost events, which also detects a client that is gone.
const BEAT: Duration = Duration::from_secs(1);
/// Number of events sent at once.
const BATCH: usize = 64;

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceLine {
    /// A packet.
    Packet(Box<TracedPacket>),
    /// Number of packets lost since the start, because they arrived faster than they were read.
    /// Sent every second.
    Lost(u64),
}

/// A packet and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// Time in nanoseconds since 1970.
    pub time_ns: u64,
    /// Incoming interface; its index if it has no name.
    pub interface: String,
    /// Outgoing interface, if the packet was sent.
    pub sent_by: Option<String>,
    /// Length of the frame as received.
    pub len: u32,
    /// Length of the frame as sent.
    pub sent_len: u32,
    /// Protocol number; this and the next four fields are present for IP.
    pub protocol: Option<u8>,
    /// Source address. For an ICMP error, the flow is the one it is about.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port; 0 if there is none.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Outcome: "passed", "dropped", "sent" or "answered".
    pub verdict: String,
    /// Reason for a drop or an answer, by the name of its counter.
    pub reason: Option<String>,
    /// Service.
    pub service: Option<String>,
    /// Class of the client.
    pub class: Option<String>,
    /// Backend.
    pub backend: Option<String>,
    /// Index of the slot.
    pub slot: Option<u32>,
    /// Steps of the decision.
    pub steps: Vec<String>,
    /// First bytes as received, in hexadecimal digits.
    pub before: String,
    /// First bytes as sent.
    pub after: String,
}

/// Step that marks packets sent by backends.
const ANSWER: &str = "answer of the backend";

const STEPS: [(u32, &str); 13] = [
    (trace_steps::PICKED, "new flow"),
    (trace_steps::OWNER, "open flow"),
    (trace_steps::FLOW_TABLE_HIT, "in the flow table"),
    (trace_steps::INSERTED, "inserted into the flow table"),
    (trace_steps::NAT_HIT, "in the nat table"),
    (
        trace_steps::RETRIED,
        "another backend for an unanswered SYN",
    ),
    (trace_steps::UNAVAILABLE, "a backend could not take it"),
    (trace_steps::HOT, "a backend was too busy for new flows"),
    (
        trace_steps::OUTSIDE_REGION,
        "a backend was outside the regions",
    ),
    (trace_steps::END_OF_CHAIN, "no backend takes new flows"),
    (trace_steps::ANSWER, ANSWER),
    (trace_steps::SERVER_ID, "named by its connection id"),
    (
        trace_steps::STRANGE_ID,
        "its connection id names no backend of the service",
    ),
];

impl TracedPacket {
    /// Returns whether a backend sent it to its client.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.steps.iter().any(|step| step == ANSWER)
    }

    fn from_event(event: &TraceEvent, names: &TraceNames, since_1970: u64) -> Self {
        let is_ip = event.key.family != 0;
        let interface = |index: u32| {
            let name = names.interfaces.get(&index).cloned();
            name.unwrap_or_else(|| index.to_string())
        };
        let verdict = TraceVerdict::ALL
            .into_iter()
            .find(|verdict| *verdict as u8 == event.verdict);
        let reason = DropReason::ALL
            .into_iter()
            .find(|reason| *reason as u8 == event.reason);
        let steps = STEPS.iter().filter(|(bit, _)| event.steps & bit != 0);
        let snap = |bytes: &[u8], len: u16| hex(&bytes[..bytes.len().min(usize::from(len))]);
        let class = names.services.get(&event.class);
        let service = names.services.get(&event.service);
        let backend = names.members.get(&event.member);
        Self {
            time_ns: event.at_ns.wrapping_add(since_1970),
            interface: interface(event.interface),
            sent_by: (event.sent_by != 0).then(|| interface(event.sent_by)),
            len: event.len,
            sent_len: event.sent_len,
            protocol: is_ip.then_some(event.key.protocol),
            source: is_ip.then(|| event.key.source.to_ip()),
            destination: is_ip.then(|| event.key.destination.to_ip()),
            source_port: event.key.source_port,
            destination_port: event.key.destination_port,
            verdict: match verdict {
                Some(TraceVerdict::Passed) | None => "passed",
                Some(TraceVerdict::Dropped) => "dropped",
                Some(TraceVerdict::Transmitted | TraceVerdict::Redirected) => "sent",
                Some(TraceVerdict::Answered) => "answered",
            }
            .to_owned(),
            reason: reason.map(|reason| reason.name().to_owned()),
            service: service
                .cloned()
                .or_else(|| numbered(event.service, TRACE_ANY)),
            class: class.cloned().or_else(|| numbered(event.class, TRACE_ANY)),
            backend: backend.cloned().or_else(|| numbered(event.member, 0)),
            slot: (event.slot != u32::MAX).then_some(event.slot),
            steps: steps.map(|(_, words)| (*words).to_owned()).collect(),
            before: snap(&event.before, event.before_len),
            after: snap(&event.after, event.after_len),
        }
    }
}

/// Returns a placeholder for a number that no longer has a name.
fn numbered(number: u16, none: u16) -> Option<String> {
    (number != none).then(|| format!("number {number}"))
}

pub(super) async fn trace(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<TraceRequest>,
) -> Result<Response, ApiError> {
    let left = request.count.unwrap_or(u64::MAX);
    let by = peer.to_string();
    let tracing = call(&commands, |reply| Command::Trace(request, by, reply)).await?;
    let tracing = tracing.map_err(|refused| {
        let status = match refused {
            TraceError::Busy(_) => StatusCode::CONFLICT,
            TraceError::Unknown(_) => StatusCode::BAD_REQUEST,
            TraceError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError(status, refused.to_string())
    })?;
    let lines = Lines::new(tracing, left).map_err(|error| {
        let text = format!("cannot wait for events: {error}");
        ApiError(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let body = Body::from_stream(stream::unfold(lines, Lines::next));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, body).into_response())
}

struct Lines {
    events: AsyncFd<TraceEvents>,
    tracing: Held,
    left: u64,
    since_1970: u64,
    /// Time of the last report about lost events.
    said: Option<Instant>,
}

/// Values that must live as long as the stream.
struct Held {
    names: tokio::sync::watch::Receiver<std::sync::Arc<TraceNames>>,
    _lease: crate::daemon::Lease,
}

impl Lines {
    fn new(tracing: Tracing, left: u64) -> std::io::Result<Self> {
        // SAFETY: the descriptor is that of the ring, which keeps it open.
        let events =
            unsafe { AsyncFd::register_with_interest(tracing.events, Interest::READABLE) }?;
        Ok(Self {
            events,
            tracing: Held {
                names: tracing.names,
                _lease: tracing.lease,
            },
            left,
            since_1970: since_1970(),
            said: None,
        })
    }

    /// Returns the next lines; `None` at the end.
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        // The first line confirms the start.
        if self.said.is_none() {
            return Some((Ok(self.beat()), self));
        }
        if self.left == 0 {
            return None;
        }
        loop {
            let text = self.batch();
            if !text.is_empty() {
                return Some((Ok(text.into()), self));
            }
            match timeout(BEAT, self.events.readable()).await {
                Err(_) => return Some((Ok(self.beat()), self)),
                Ok(Err(error)) => return Some((Err(error), self)),
                Ok(Ok(mut ready)) => ready.clear_ready(),
            }
            // Events before the ring was cleared are found now, and later ones wake the stream
            // again.
        }
    }

    fn batch(&mut self) -> String {
        let names = self.tracing.names.borrow().clone();
        let mut text = String::new();
        for _ in 0..BATCH.min(usize::try_from(self.left).unwrap_or(BATCH)) {
            let Some(event) = self.events.get_mut().next_event() else {
                break;
            };
            self.left -= 1;
            let packet = TracedPacket::from_event(&event, &names, self.since_1970);
            line(&mut text, &TraceLine::Packet(Box::new(packet)));
        }
        if self.left == 0 || self.said.is_some_and(|said| said.elapsed() >= BEAT) {
            self.say_lost(&mut text);
        }
        text
    }

    fn beat(&mut self) -> Bytes {
        let mut text = String::new();
        self.say_lost(&mut text);
        text.into()
    }

    fn say_lost(&mut self, text: &mut String) {
        self.said = Some(Instant::now());
        let lost = self.events.get_ref().lost().unwrap_or(0);
        line(text, &TraceLine::Lost(lost));
    }
}

fn line(text: &mut String, line: &TraceLine) {
    // Strings and numbers can always be serialized.
    if let Ok(json) = serde_json::to_string(line) {
        text.push_str(&json);
        text.push('\n');
    }
}

/// Returns the difference between calendar time and the clock of events in nanoseconds.
fn since_1970() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the result, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let monotonic = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let calendar = SystemTime::now().duration_since(UNIX_EPOCH);
    let calendar = calendar.map_or(0, |since| since.as_nanos() as u64);
    calendar.wrapping_sub(monotonic)
}

/// A stream of lines from the daemon.
pub struct TraceStream {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
    lines: VecDeque<TraceLine>,
}

impl TraceStream {
    /// Returns the next line; `None` at the end.
    ///
    /// # Errors
    ///
    /// Returns an error if the daemon disconnects, or a line is invalid.
    pub async fn next(&mut self) -> Result<Option<TraceLine>, ClientError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| ClientError::Malformed(error.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.rest.extend(&data);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = serde_json::from_slice(&line)
                    .map_err(|error| ClientError::Malformed(error.to_string()))?;
                self.lines.push_back(line);
            }
        }
    }
}

impl Client {
    /// Starts a stream of packets.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn trace(&self, request: &TraceRequest) -> Result<TraceStream, ClientError> {
        let body =
            serde_json::to_vec(request).map_err(|error| ClientError::Refused(error.to_string()))?;
        let body = self.request(Method::POST, "/v1/trace", body.into()).await?;
        Ok(TraceStream {
            body,
            rest: Vec::new(),
            lines: VecDeque::new(),
        })
    }
}
