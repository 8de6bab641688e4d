//! One connection to a beacon.

use std::time::{Duration, Instant};

use quinn::{
    ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, SendDatagramError,
    TokioRuntime, TransportErrorCode,
};
use tokio::time::timeout;

use super::socket::{self, Unreachable};
use super::tls::{ProbeTls, Verdict};
use super::{Load, ProbeFailure, Sample, wire};
use crate::pki::Identity;

/// An open connection; closed when dropped.
pub(super) struct Link {
    connection: Connection,
    unreachable: Unreachable,
    sequence: u64,
    handshake: Option<Duration>,
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
        let (socket, mut unreachable) = socket::connect(address).map_err(|e| {
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
        let connected = tokio::select! {
            connected = timeout(limit, connecting) => connected,
            failure = refusal(&mut unreachable) => return Err(failure),
        };
        let connection = connected
            .map_err(|_| ProbeFailure::Timeout)?
            .map_err(|e| verdict.take().unwrap_or_else(|| classify(e)))?;
        Ok(Self {
            connection,
            unreachable,
            sequence: 0,
            handshake: Some(started.elapsed()),
        })
    }

    /// One round trip.
    pub(super) async fn ping(&mut self, limit: Duration) -> Result<Sample, ProbeFailure> {
        self.sequence += 1;
        let sequence = self.sequence;
        let sent = Instant::now();
        self.connection
            .send_datagram(wire::encode_ping(sequence))
            .map_err(|e| match e {
                SendDatagramError::ConnectionLost(e) => classify(e),
                e => ProbeFailure::Malformed(format!("the beacon takes no datagrams: {e}")),
            })?;
        let (rtt, report) = tokio::select! {
            reply = timeout(limit, reply(&self.connection, sequence, sent)) => {
                reply.map_err(|_| ProbeFailure::Timeout)??
            }
            failure = refusal(&mut self.unreachable) => return Err(failure),
        };
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

    /// Waits until the connection is lost.
    pub(super) async fn lost(&mut self) -> ProbeFailure {
        tokio::select! {
            closed = self.connection.closed() => classify(closed),
            failure = refusal(&mut self.unreachable) => failure,
        }
    }
}

async fn reply(
    connection: &Connection,
    sequence: u64,
    sent: Instant,
) -> Result<(Duration, super::OrcaLoadReport), ProbeFailure> {
    loop {
        let datagram = connection.read_datagram().await.map_err(classify)?;
        let rtt = sent.elapsed();
        let (echoed, report) =
            wire::decode_reply(&datagram).map_err(|e| ProbeFailure::Malformed(e.to_string()))?;
        if echoed == sequence {
            return Ok((rtt, report));
        }
        // A lower number is an answer that came after its timeout.
        if echoed > sequence {
            let what = format!("answer to ping {echoed}, which was never sent");
            return Err(ProbeFailure::Malformed(what));
        }
    }
}

pub(super) async fn refusal(unreachable: &mut Unreachable) -> ProbeFailure {
    match unreachable
        .wait_for(Option::is_some)
        .await
        .map(|kind| *kind)
    {
        Ok(Some(kind)) => ProbeFailure::Refused(kind.to_string()),
        // The socket is gone, and the connection's own error says why.
        _ => std::future::pending().await,
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
