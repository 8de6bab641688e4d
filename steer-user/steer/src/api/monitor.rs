//! `/metrics`, `/healthz` and `/readyz`: on the API's socket, and alone on a TCP address of their
//! own.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::get,
};
use steer_core::config::Config;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tracing::{info, warn};

use super::{
    hosts::{self, AllowedHosts},
    listen,
    metrics::{Family, page, read},
    server::{ApiError, call},
    watch::Changes,
};
use crate::daemon::{Command, Commands, DaemonMetrics};

/// Time without an answer after which the loop counts as stuck. Applying the largest configuration
/// takes less.
const ALIVE: Duration = Duration::from_secs(5);
/// Pause after a failure to listen on an address.
const RETRY: Duration = Duration::from_secs(5);
/// Media type of OpenMetrics' text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// State of the routes.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Commands to the loop.
    pub commands: Commands,
    /// Counters of the loop.
    pub metrics: DaemonMetrics,
    /// Changes for clients that watch.
    pub changes: Changes,
}

impl Monitor {
    /// Returns the route `/metrics`, for users who may read.
    pub(super) fn seeing(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Returns the routes `/healthz` and `/readyz`, for everyone.
    pub(super) fn living(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self)
    }

    async fn page(&self) -> Result<String, ApiError> {
        let failed = |error: String| ApiError(StatusCode::INTERNAL_SERVER_ERROR, error);
        let status = call(&self.commands, Command::Status).await?;
        let status = status.map_err(|error| failed(format!("{error:#}")))?;
        let passive = call(&self.commands, Command::Passive).await?;
        let passive = passive.map_err(|error| failed(format!("{error:#}")))?;
        page(&self.metrics, status, passive).map_err(|error| failed(error.to_string()))
    }

    /// Returns all current metric families, or the reason why there are none.
    pub(crate) async fn families(&self) -> Result<Vec<Family>, String> {
        let page = self.page().await;
        page.map(|page| read(&page)).map_err(|ApiError(_, why)| why)
    }
}

async fn metrics(State(monitor): State<Monitor>) -> Result<Response, ApiError> {
    let page = monitor.page().await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response())
}

/// Answers whether the loop responds.
async fn healthz(State(monitor): State<Monitor>) -> Result<&'static str, ApiError> {
    match timeout(ALIVE, call(&monitor.commands, Command::Ready)).await {
        Ok(answer) => answer.map(|_| "ok\n"),
        Err(_) => Err(stuck()),
    }
}

async fn readyz(State(monitor): State<Monitor>) -> Result<Response, ApiError> {
    let Ok(answer) = timeout(ALIVE, call(&monitor.commands, Command::Ready)).await else {
        return Err(stuck());
    };
    let readiness = answer?;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(readiness)).into_response())
}

fn stuck() -> ApiError {
    let seconds = ALIVE.as_secs();
    let text = format!("the control loop did not answer within {seconds} s; see the daemon's log");
    ApiError(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// TCP address of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port.
    pub address: SocketAddr,
    /// Host names accepted in requests.
    pub hosts: AllowedHosts,
}

impl Metrics {
    /// Returns the address and names of a configuration, including the node's name.
    #[must_use]
    pub fn from_config(config: &Config) -> Option<Self> {
        let names = config.api.metrics_hosts.iter().chain([&config.node.name]);
        Some(Self {
            address: config.api.metrics?,
            hosts: AllowedHosts::new(names.cloned()),
        })
    }
}

/// Serves on the configured address, if there is one, and follows changes of the configuration.
pub async fn monitor(monitor: Monitor, mut address: watch::Receiver<Option<Metrics>>) {
    loop {
        let now = address.borrow_and_update().clone();
        let serve = async {
            match now.clone() {
                Some(metrics) => at(metrics, monitor.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serve => {}
            changed = address.wait_for(|next| *next != now) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn at(Metrics { address, hosts }: Metrics, monitor: Monitor) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(
                %address, %error,
                "cannot listen on the address for metrics; trying again: check `metrics` in [api]"
            );
            tokio::time::sleep(RETRY).await;
            return;
        }
    };
    info!(%address, "metrics");
    let routes = monitor.clone().seeing().merge(monitor.living());
    let routes = routes.layer(from_fn_with_state(hosts, hosts::check));
    listen::serve(listener, routes).await;
}
