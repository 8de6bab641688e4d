//! `/metrics`, `/healthz` and `/readyz`: on the API's socket, and on a TCP address of their own that
//! has nothing else.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tracing::{info, warn};

use super::{
    hosts::{self, AllowedHosts},
    listen,
    metrics::{Family, page, read},
    server::{Refusal, ask},
};
use crate::{
    config::Config,
    daemon::{Command, Commands, DaemonMetrics},
    journal::Journal,
};

/// A loop that does not answer within this time is taken to be stuck. A turn that applies the largest
/// configuration takes less.
const ALIVE: Duration = Duration::from_secs(5);
/// How long after an address that could not be listened at is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The media type of OpenMetrics' text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What its routes answer by.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// The loop.
    pub commands: Commands,
    /// What it counts of itself.
    pub metrics: DaemonMetrics,
    /// What changes steering.
    pub journal: Journal,
}

impl Monitor {
    /// `/metrics`, for those who may see.
    pub(super) fn seeing(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// `/healthz` and `/readyz`, for anybody.
    pub(super) fn living(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self)
    }

    async fn page(&self) -> Result<String, Refusal> {
        let failed = |error: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error);
        let status = ask(&self.commands, Command::Status).await?;
        let status = status.map_err(|error| failed(format!("{error:#}")))?;
        let passive = ask(&self.commands, Command::Passive).await?;
        let passive = passive.map_err(|error| failed(format!("{error:#}")))?;
        page(&self.metrics, status, passive).map_err(|error| failed(error.to_string()))
    }

    /// All that is on the page of metrics now; or why there is none.
    pub(crate) async fn families(&self) -> Result<Vec<Family>, String> {
        let page = self.page().await;
        page.map(|page| read(&page)).map_err(|Refusal(_, why)| why)
    }
}

async fn metrics(State(monitor): State<Monitor>) -> Result<Response, Refusal> {
    let page = monitor.page().await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response())
}

/// The loop answers.
async fn healthz(State(monitor): State<Monitor>) -> Result<&'static str, Refusal> {
    match timeout(ALIVE, ask(&monitor.commands, Command::Ready)).await {
        Ok(answer) => answer.map(|_| "ok\n"),
        Err(_) => Err(stuck()),
    }
}

async fn readyz(State(monitor): State<Monitor>) -> Result<Response, Refusal> {
    let Ok(answer) = timeout(ALIVE, ask(&monitor.commands, Command::Ready)).await else {
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

fn stuck() -> Refusal {
    let text = format!("the loop did not answer within {ALIVE:?}; its log says what it does");
    Refusal(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Address of metrics by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address and port.
    pub address: SocketAddr,
    /// Names of hosts that requests may name.
    pub hosts: AllowedHosts,
}

impl Metrics {
    /// Address and names of a configuration; the node's name is one of them.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let names = config.api.metrics_hosts.iter().chain([&config.node.name]);
        Some(Self {
            address: config.api.metrics?,
            hosts: AllowedHosts::new(names.cloned()),
        })
    }
}

/// Answers at the address that the configuration names, if it names one, and follows it.
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
                "no metrics here until it can be listened at: see [api] metrics"
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
