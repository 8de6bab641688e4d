//! Readiness reported by the engine: its health path, and whether it sleeps.

use std::{net::SocketAddr, time::Duration};

use hyper::header::HeaderValue;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    exposition::MAX_PAGE,
    http::Client,
    profile::{Health, Sleep},
};

/// Timeout of one answer; a later one is ignored.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Readiness reported by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// The engine is ready.
    Ready,
    /// The engine is not ready yet.
    Loading,
    /// The engine reports nothing.
    Unknown,
}

/// Client for an engine's readiness.
#[derive(Debug)]
pub(super) struct ReadinessProbe {
    client: Client,
    health: Option<Health>,
    sleep: Option<Sleep>,
    was_ready: bool,
    /// Whether its document has the sleep state; documents of older engines do not.
    tells_sleep: bool,
}

impl ReadinessProbe {
    pub(super) fn new(
        api: SocketAddr,
        key: Option<HeaderValue>,
        health: Option<Health>,
        sleep: Option<Sleep>,
    ) -> Self {
        Self {
            client: Client::new(api, key),
            health,
            sleep,
            was_ready: false,
            tells_sleep: true,
        }
    }

    /// Forgets earlier answers after a restart of the engine.
    pub(super) fn restarted(&mut self) {
        self.was_ready = false;
        self.tells_sleep = true;
    }

    /// Requests its health path.
    pub(super) async fn readiness(&mut self) -> Readiness {
        let Some(health) = &self.health else {
            return Readiness::Unknown;
        };
        if health.generates && self.was_ready {
            return Readiness::Unknown;
        }
        let asked = timeout(TIMEOUT, self.client.request(&health.path, None, MAX_PAGE)).await;
        let Ok(Ok(answer)) = asked else {
            return Readiness::Unknown;
        };
        if health.unready.contains(&answer.status.as_u16()) {
            return Readiness::Loading;
        }
        self.was_ready = true;
        Readiness::Ready
    }

    /// Returns whether a document of the engine reports that it sleeps.
    pub(super) async fn is_asleep(&mut self) -> bool {
        let Some(Sleep {
            path: Some(path),
            pointer,
            ..
        }) = &self.sleep
        else {
            return false;
        };
        if !self.tells_sleep {
            return false;
        }
        let asked = timeout(TIMEOUT, self.client.request(path, None, MAX_PAGE)).await;
        let Ok(Ok(answer)) = asked else {
            return false;
        };
        if !answer.status.is_success() {
            return false;
        }
        let document: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let told = document.and_then(|document| document.pointer(pointer)?.as_bool());
        self.tells_sleep = told.is_some();
        told.unwrap_or(false)
    }
}
