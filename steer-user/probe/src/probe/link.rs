//! One connection to a beacon.

use std::time::{Duration, Instant};

use quinn::{
    ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, SendDatagramError,
    TokioRuntime, TransportErrorCode,
};
use tokio::time::{sleep_until, timeout};

use super::pace::{Fast, Pace};
use super::patience::Patience;
use super::socket::{self, Unreachable};
use super::tls::{ProbeTls, Verdict};
use super::{Load, OrcaLoadReport, ProbeFailure, Sample, wire};
use crate::pki::Identity;

/// A timer that fires so much too late says that the node itself was busy.
const LATE: Duration = Duration::from_millis(5);
/// Round trips of a handshake: a beacon has each address proved first (RFC 9000 section 8.1.2).
const ROUND_TRIPS: u32 = 2;
/// It waits no longer for that.
const MOST_LATE: Duration = Duration::from_millis(50);

/// An open connection; closed when dropped.
pub(super) struct Link {
    connection: Connection,
    unreachable: Unreachable,
    sequence: u64,
    handshake: Option<Duration>,
    patience: Patience,
    /// A ping that went out while the one before was overdue, until it is told what became of it.
    second: Option<Second>,
}

struct Second {
    sequence: u64,
    sent: Instant,
    _place: Fast,
    /// Its answer, if it came.
    answered: Option<(Duration, OrcaLoadReport)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close(0_u8.into(), b"");
    }
}

impl Link {
    /// Connects, from a fresh port and with a full handshake.
    pub(super) async fn open(
        address: std::net::SocketAddr,
        expected: Identity,
        tls: &ProbeTls,
        limit: Duration,
        idle: Duration,
    ) -> Result<Self, ProbeFailure> {
        let verdict = Verdict::default();
        let name = expected.name().to_owned();
        let config = tls.client(expected, &verdict, idle)?;
        let (socket, unreachable) = socket::connect(address).map_err(|e| {
            if socket::is_unreachable(e.kind()) {
                ProbeFailure::Refused(e.to_string())
            } else {
                ProbeFailure::Local(format!("no socket for {address}: {e}"))
            }
        })?;
        let runtime = std::sync::Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime)
                .map_err(|e| ProbeFailure::Local(format!("no endpoint for {address}: {e}")))?;

        let started = Instant::now();
        let connecting = endpoint
            .connect_with(config, address, &name)
            .map_err(unusable)?;
        let connection = timeout(limit * ROUND_TRIPS, connecting)
            .await
            .map_err(|_| ProbeFailure::Timeout)?
            .map_err(|e| verdict.take().unwrap_or_else(|| classify(e)))?;
        Ok(Self {
            connection,
            unreachable,
            sequence: 0,
            handshake: Some(started.elapsed()),
            patience: Patience::default(),
            second: None,
        })
    }

    /// One round trip. Where the answer is overdue another ping goes out before the first one has failed:
    /// the next call says what became of that one, so that two failures in a row are known soon.
    pub(super) async fn ping(
        &mut self,
        limit: Duration,
        pace: &Pace,
    ) -> Result<Sample, ProbeFailure> {
        let limit = self.patience.limit(limit);
        let (sequence, sent) = match self.second.take() {
            Some(Second {
                answered: Some((rtt, report)),
                ..
            }) => return self.sample(rtt, report),
            Some(Second { sequence, sent, .. }) => (sequence, sent),
            None => self.send()?,
        };
        let deadline = sent + limit;
        let again = pace
            .again_after()
            .and_then(|fast| self.patience.overdue(fast));
        let mut again = again.map(|after| sent + after).filter(|at| *at < deadline);
        // Forged or not, it makes no more than one ping come sooner.
        let mut hastens = true;
        loop {
            let wake = again.unwrap_or(deadline);
            let found = tokio::select! {
                biased;
                found = answer(&self.connection, &mut self.second, sequence, sent) => found?,
                () = unreachable(&mut self.unreachable), if hastens && again.is_some() => {
                    hastens = false;
                    again = Some(Instant::now());
                    continue;
                }
                () = awake(wake) => {
                    if again.take().is_none() {
                        return Err(ProbeFailure::Timeout);
                    }
                    if let Some(place) = pace.place() {
                        let (sequence, sent) = self.send()?;
                        let answered = None;
                        self.second = Some(Second { sequence, sent, _place: place, answered });
                    }
                    continue;
                }
            };
            return match found {
                Some((rtt, report)) => {
                    // What the other ping would tell is known.
                    self.second = None;
                    self.sample(rtt, report)
                }
                // The one behind it was answered: it is lost.
                None => Err(ProbeFailure::Timeout),
            };
        }
    }

    fn send(&mut self) -> Result<(u64, Instant), ProbeFailure> {
        self.sequence += 1;
        let sent = Instant::now();
        self.connection
            .send_datagram(wire::encode_ping(self.sequence))
            .map_err(|e| match e {
                SendDatagramError::ConnectionLost(e) => classify(e),
                e => ProbeFailure::Malformed(format!("the beacon takes no datagrams: {e}")),
            })?;
        Ok((self.sequence, sent))
    }

    fn sample(&mut self, rtt: Duration, report: OrcaLoadReport) -> Result<Sample, ProbeFailure> {
        self.patience.observe(rtt);
        if let Some(failure) = report.failure() {
            return Err(failure);
        }
        Ok(Sample {
            rtt,
            handshake: self.handshake.take(),
            load: Load::parse(&report),
            report,
        })
    }

    /// Waits until the connection is lost, or there is a reason to ask at once, which is `None`. Such reasons are ignored
    /// unless the link `hastens`.
    pub(super) async fn lost(&mut self, hastens: bool) -> Option<ProbeFailure> {
        tokio::select! {
            closed = self.connection.closed() => Some(classify(closed)),
            () = unreachable(&mut self.unreachable), if hastens => None,
        }
    }
}

/// The answer to a ping; `None` once the second one is answered, which is kept.
async fn answer(
    connection: &Connection,
    second: &mut Option<Second>,
    sequence: u64,
    sent: Instant,
) -> Result<Option<(Duration, OrcaLoadReport)>, ProbeFailure> {
    loop {
        let datagram = connection.read_datagram().await.map_err(classify)?;
        let (echoed, report) =
            wire::decode_reply(&datagram).map_err(|e| ProbeFailure::Malformed(e.to_string()))?;
        if echoed == sequence {
            return Ok(Some((sent.elapsed(), report)));
        }
        if let Some(second) = second
            && echoed == second.sequence
        {
            second.answered = Some((second.sent.elapsed(), report));
            return Ok(None);
        }
        // A lower number is an answer that came after its timeout.
        if echoed > sequence {
            let what = format!("answer to ping {echoed}, which was never sent");
            return Err(ProbeFailure::Malformed(what));
        }
    }
}

/// Waits until a time, and for as long again as this node was late itself: an answer that came meanwhile
/// has not been looked at yet.
async fn awake(at: Instant) {
    sleep_until(at.into()).await;
    let late = at.elapsed();
    if late > LATE {
        sleep_until((Instant::now() + late.min(MOST_LATE)).into()).await;
    }
}

/// Waits until the network says once more that the peer cannot be reached. Anybody may have said it.
async fn unreachable(unreachable: &mut Unreachable) {
    if unreachable.changed().await.is_err() {
        // The socket is gone, and its connection says so.
        std::future::pending().await
    }
}

fn unusable(error: ConnectError) -> ProbeFailure {
    ProbeFailure::Local(format!("the beacon's address is not usable: {error}"))
}

/// The failure that a lost connection amounts to.
pub(super) fn classify(error: ConnectionError) -> ProbeFailure {
    let code = match &error {
        ConnectionError::TimedOut => return ProbeFailure::Timeout,
        ConnectionError::VersionMismatch => return ProbeFailure::Malformed(error.to_string()),
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
            return ProbeFailure::Local(error.to_string());
        }
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => {
            return ProbeFailure::Refused(error.to_string());
        }
        ConnectionError::TransportError(e) => e.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
    };
    match u64::from(code) {
        // CRYPTO_ERROR: a TLS alert.
        0x100..0x200 => ProbeFailure::Tls(error.to_string()),
        _ if code == TransportErrorCode::CONNECTION_REFUSED => {
            ProbeFailure::Refused(error.to_string())
        }
        _ => ProbeFailure::Malformed(error.to_string()),
    }
}
