//! A probe method with its connection.

use std::time::Duration;

use super::{
    ProbeFailure, ProbeSettings, ProbeTarget, Sample,
    beacon_connection::BeaconConnection,
    http::{self, HttpProber, HttpRequest},
    method::Method,
    schedule::Schedule,
};
use crate::pki::{Identity, IdentityKind};

pub(super) enum Prober {
    Beacon(Box<BeaconConnection>),
    Tcp(std::net::SocketAddr),
    Get(Box<HttpProber>),
}

impl Prober {
    /// Starts a session. Only a beacon is connected at once; other methods connect with their first
    /// probe.
    pub(super) async fn open(
        target: &ProbeTarget,
        settings: &ProbeSettings,
    ) -> Result<Self, ProbeFailure> {
        let ProbeTarget {
            name,
            region,
            address,
            method,
        } = target;
        match method {
            Method::Beacon => {
                let expected = Identity::new(IdentityKind::Beacon, region, name)
                    .map_err(|e| ProbeFailure::Local(e.to_string()))?;
                let Some(tls) = &settings.tls else {
                    return Err(ProbeFailure::Local(
                        "no certificates are configured".to_owned(),
                    ));
                };
                let timeout = settings.timeout;
                // Pings are more frequent than this idle timeout, and they detect a lost
                // connection.
                let idle = Duration::from_secs(120).max(timeout.saturating_mul(4));
                let link = BeaconConnection::open(*address, expected, tls, timeout, idle).await?;
                Ok(Self::Beacon(Box::new(link)))
            }
            Method::Tcp { .. } => Ok(Self::Tcp(*address)),
            Method::Get { over, path, .. } => {
                Ok(Self::Get(Box::new(HttpProber::new(HttpRequest {
                    over: *over,
                    address: *address,
                    path: path.clone(),
                    tls: settings.web.clone(),
                }))))
            }
        }
    }

    /// Sends one probe.
    pub(super) async fn probe(
        &mut self,
        limit: Duration,
        pace: &Schedule,
    ) -> Result<Sample, ProbeFailure> {
        match self {
            Self::Beacon(link) => link.ping(limit, pace).await,
            Self::Tcp(address) => http::connect(*address, limit).await,
            Self::Get(getter) => getter.probe(limit).await,
        }
    }

    /// Replaces the connection.
    pub(super) async fn renew(
        &mut self,
        target: &ProbeTarget,
        settings: &ProbeSettings,
    ) -> Result<(), ProbeFailure> {
        match self {
            Self::Beacon(_) => *self = Self::open(target, settings).await?,
            Self::Tcp(_) => {}
            Self::Get(getter) => getter.renew(),
        }
        Ok(())
    }

    /// Waits until the connection is lost, for methods where that is meaningful: a web server may
    /// close an idle one. `None`, returned only if the session `hastens`, is a reason to probe at
    /// once.
    pub(super) async fn lost(&mut self, hastens: bool) -> Option<ProbeFailure> {
        match self {
            Self::Beacon(link) => link.lost(hastens).await,
            Self::Tcp(_) | Self::Get(_) => std::future::pending().await,
        }
    }
}
