//! `steer service`, `steer backend` and `steer weight`.

use std::time::Duration;

use clap::{Args, Subcommand};
use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde::Serialize;
use steer_core::control::Status;

use super::{
    ask::{Target, failure},
    error::{Exit, Failure},
    show,
};
use crate::api::{DrainRequest, SaveWarning, WeightRequest};

/// Interval between checks of a drain.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Service {
    /// List services.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a service with its members.
    Show {
        /// Name of the service.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Service {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { target } => {
                let status = status(&target).await?;
                print(&target, &status.services, || show::services(&status))
            }
            Self::Show { name, target } => {
                let status = status(&target).await?;
                let found = status.services.iter().find(|s| s.name == name);
                let service = found.ok_or_else(|| unknown("service", &name))?;
                print(&target, service, || show::service(service))
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Backend {
    /// List backends.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a backend with the services it is a member of.
    Show {
        /// Name of the backend.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Drain a backend: it gets no new flows, and open ones continue. Persists across restarts.
    Drain {
        /// Name of the backend.
        name: String,
        /// Deadline for open flows, like 10m. After it they are reset or moved, by their service's
        /// `open_flows`.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        deadline: Option<Duration>,
        /// Wait until the backend has no open flows, or the deadline has passed.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        target: Target,
    },
    /// End the drain of a backend: it gets new flows again.
    Undrain {
        /// Name of the backend.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Backend {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { target } => {
                let status = status(&target).await?;
                print(&target, &status.backends, || show::backends(&status))
            }
            Self::Show { name, target } => {
                let status = status(&target).await?;
                let found = status.backends.iter().find(|b| b.name == name);
                let backend = found.ok_or_else(|| unknown("backend", &name))?;
                print(&target, backend, || show::backend(backend, &status))
            }
            Self::Drain {
                name,
                deadline,
                wait,
                target,
            } => drain(&name, deadline, wait, &target).await,
            Self::Undrain { name, target } => {
                let done = target.client()?.undrain(&name).await;
                let saved = done.map_err(failure)?;
                let said = serde_json::json!({
                    "backend": name, "drained": false, "warning": saved.warning
                });
                print(&target, &said, || {
                    format!("{name} takes new flows\n{}", warning(&saved))
                })
            }
        }
    }
}

async fn drain(
    name: &str,
    deadline: Option<Duration>,
    wait: bool,
    target: &Target,
) -> Result<(), Failure> {
    let request = DrainRequest { deadline };
    let done = target.client()?.drain(name, &request).await;
    let saved = done.map_err(failure)?;
    if wait {
        until_gone(name, target).await?;
    }
    let state = if wait { "gone" } else { "draining" };
    let said = serde_json::json!({ "backend": name, "drained": true, "state": state, "warning": saved.warning });
    print(target, &said, || {
        let done = match (wait, deadline) {
            (true, _) => format!("{name} has no open flows: it may be switched off\n"),
            (false, None) => format!("{name} drains\n"),
            (false, Some(deadline)) => {
                let deadline = format_duration(deadline);
                format!("{name} drains; flows still open in {deadline} will be ended\n")
            }
        };
        done + &warning(&saved)
    })
}

/// Waits until a backend has no open flows, or they were ended.
async fn until_gone(name: &str, target: &Target) -> Result<(), Failure> {
    loop {
        let status = status(target).await?;
        let found = status.backends.into_iter().find(|b| b.name == name);
        let Some(drain) = found.and_then(|backend| backend.drain) else {
            let text = format!("{name}: its drain was ended, or it was removed");
            return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
        };
        if drain.state == "gone" {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Set the weight of a backend in place of its capacity. Persists across restarts.
#[derive(Debug, Args)]
pub(super) struct Weight {
    /// Name of the backend.
    backend: String,
    /// Weight, relative to the other backends'; "capacity" restores the default.
    #[arg(value_parser = weight)]
    weight: Given,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug)]
struct Given(Option<u32>);

fn weight(text: &str) -> Result<Given, String> {
    match text {
        "capacity" => Ok(Given(None)),
        _ => text
            .parse()
            .map(|weight| Given(Some(weight)))
            .map_err(|_| "write a number, or \"capacity\"".to_owned()),
    }
}

impl Weight {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self {
            backend,
            weight: Given(weight),
            target,
        } = self;
        let request = WeightRequest { weight };
        let done = target.client()?.weigh(&backend, &request).await;
        let saved = done.map_err(failure)?;
        let said = serde_json::json!({
            "backend": backend, "weight": weight, "warning": saved.warning
        });
        print(&target, &said, || {
            let done = match weight {
                Some(weight) => format!("{backend} has weight {weight}\n"),
                None => format!("{backend} has its capacity as weight\n"),
            };
            done + &warning(&saved)
        })
    }
}

/// Returns a line about a change that was not saved, if there is one.
fn warning(saved: &SaveWarning) -> String {
    let warning = saved.warning.as_ref();
    warning.map_or_else(String::new, |warning| format!("warning: {warning}\n"))
}

async fn status(target: &Target) -> Result<Status, Failure> {
    target.client()?.status().await.map_err(failure)
}

fn unknown(kind: &str, name: &str) -> Failure {
    let text = format!("there is no {kind} {name:?}; `steer {kind} list` lists them");
    Failure::new(Exit::Refused, anyhow::anyhow!(text))
}

fn print(
    target: &Target,
    value: &impl Serialize,
    words: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if target.json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        anstream::print!("{}", words());
    }
    Ok(())
}
