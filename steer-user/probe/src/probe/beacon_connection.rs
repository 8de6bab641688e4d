//! Connection to a beacon.

use std::time::{Duration, Instant};

use quinn::{
    ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, SendDatagramError,
    TokioRuntime, TransportErrorCode,
};
use tokio::time::{sleep_until, timeout};

use super::schedule::{FastSlot, Schedule};
use super::socket::{self, Unreachable};
use super::timeout::Timeout;
use super::tls::{ProbeTls, VerifierFailure};
use super::{Load, OrcaLoadReport, ProbeFailure, Sample, wire};
use crate::pki::Identity;

/// Delay of a timer that shows that the node itself was busy.
const MAX_WAKEUP_DELAY: Duration = Duration::from_millis(5);
/// Round trips of a handshake: a beacon first validates each address (RFC 9000 section 8.1.2).
const SECOND_PING_ROUND_TRIPS: u32 = 2;
/// Upper bound of the additional wait for a busy node.
const MAX_EXTRA_WAIT: Duration = Duration::from_millis(50);

/// An open connection; closed when dropped.
pub(super) struct BeaconConnection {
    connection: Connection,
    unreachable: Unreachable,
    sequence: u64,
    handshake: Option<Duration>,
    patience: Timeout,
    /// Ping sent while the previous one was overdue, until its outcome has been reported.
    second: Option<SecondPing>,
}

struct SecondPing {
    sequence: u64,
    sent: Instant,
    _place: FastSlot,
    /// Its answer, if received.
    answered: Option<(Duration, OrcaLoadReport)>,
}

impl Drop for BeaconConnection {
    fn drop(&mut self) {
        self.connection.close(0_u8.into(), b"");
    }
}

impl BeaconConnection {
    /// Connects from a fresh port with a full handshake.
    pub(super) async fn open(
        address: std::net::SocketAddr,
        expected: Identity,
        tls: &ProbeTls,
        limit: Duration,
        idle: Duration,
    ) -> Result<Self, ProbeFailure> {
        let verdict = VerifierFailure::default();
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
        let connection = timeout(limit * SECOND_PING_ROUND_TRIPS, connecting)
            .await
            .map_err(|_| ProbeFailure::Timeout)?
            .map_err(|e| verdict.take_failure().unwrap_or_else(|| classify(e)))?;
        Ok(Self {
            connection,
            unreachable,
            sequence: 0,
            handshake: Some(started.elapsed()),
            patience: Timeout::default(),
            second: None,
        })
    }

    /// Measures one round trip. If the answer is overdue, a second ping is sent before the first
    /// one has failed, and the next call reports its outcome: two consecutive failures are then
    /// known early.
    pub(super) async fn ping(
        &mut self,
        limit: Duration,
        pace: &Schedule,
    ) -> Result<Sample, ProbeFailure> {
        let limit = self.patience.limit(limit);
        let (sequence, sent) = match self.second.take() {
            Some(SecondPing {
                answered: Some((rtt, report)),
                ..
            }) => return self.sample(rtt, report),
            Some(SecondPing { sequence, sent, .. }) => (sequence, sent),
            None => self.send()?,
        };
        let deadline = sent + limit;
        let again = pace
            .min_interval()
            .and_then(|fast| self.patience.overdue(fast));
        let mut again = again.map(|after| sent + after).filter(|at| *at < deadline);
        // Network errors, forged or not, hasten only one ping.
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
                () = wake_at(wake) => {
                    if again.take().is_none() {
                        return Err(ProbeFailure::Timeout);
                    }
                    if let Some(place) = pace.fast_slot() {
                        let (sequence, sent) = self.send()?;
                        let answered = None;
                        self.second = Some(SecondPing { sequence, sent, _place: place, answered });
                    }
                    continue;
                }
            };
            return match found {
                Some((rtt, report)) => {
                    // The outcome of the other ping no longer matters.
                    self.second = None;
                    self.sample(rtt, report)
                }
                // A later ping was answered, so this one is lost.
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
                e => ProbeFailure::Malformed(format!("the beacon does not support datagrams: {e}")),
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

    /// Waits until the connection is lost, or for a reason to probe at once, which returns `None`.
    /// Such reasons are ignored unless the link `hastens`.
    pub(super) async fn lost(&mut self, hastens: bool) -> Option<ProbeFailure> {
        tokio::select! {
            closed = self.connection.closed() => Some(classify(closed)),
            () = unreachable(&mut self.unreachable), if hastens => None,
        }
    }

    /// Returns the number of packets that quinn declared lost.
    #[cfg(test)]
    pub(super) fn lost_packets(&self) -> u64 {
        self.connection.stats().path.lost_packets
    }
}

/// Waits for the answer to a ping; returns `None` once the second one is answered, whose answer is
/// stored.
async fn answer(
    connection: &Connection,
    second: &mut Option<SecondPing>,
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
        // A lower number is an answer after its timeout.
        if echoed > sequence {
            let what = format!("answer to ping {echoed}, which was never sent");
            return Err(ProbeFailure::Malformed(what));
        }
    }
}

/// Waits until a time, plus the delay of this node itself: an answer received meanwhile has not
/// been processed yet.
async fn wake_at(at: Instant) {
    sleep_until(at.into()).await;
    let late = at.elapsed();
    if late > MAX_WAKEUP_DELAY {
        sleep_until((Instant::now() + late.min(MAX_EXTRA_WAIT)).into()).await;
    }
}

/// Waits until the network reports once more that the peer is unreachable. Such reports can be
/// forged.
async fn unreachable(unreachable: &mut Unreachable) {
    if unreachable.changed().await.is_err() {
        // The socket is gone, and its connection reports that.
        std::future::pending().await
    }
}

fn unusable(error: ConnectError) -> ProbeFailure {
    ProbeFailure::Local(format!("the beacon's address is not usable: {error}"))
}

/// Converts the loss of a connection to a probe failure.
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
