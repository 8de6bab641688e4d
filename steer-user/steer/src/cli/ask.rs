//! Commands that query the daemon.

use std::path::PathBuf;

use clap::Args;
use humantime_serde::re::humantime::format_rfc3339_millis;

use super::{
    error::{Exit, Failure},
    table,
};
use crate::api::{Client, ClientError, Dial};

/// Options for the address of the daemon.
#[derive(Debug, Args)]
pub(super) struct Socket {
    /// Socket of the daemon.
    #[arg(long, default_value = "/run/steer/steer.sock")]
    socket: PathBuf,
    /// Remote daemon: https:// with its name or address and the port of `[api] listen`.
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    api: Option<String>,
    /// File of the CA of that daemon's certificate.
    #[arg(long, value_name = "FILE", default_value = "/etc/steer/pki/ca.pem")]
    api_ca: PathBuf,
    /// File of the client certificate to present (`steer pki issue operator`).
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/steer/pki/operator.pem"
    )]
    api_cert: PathBuf,
    /// File of its key.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/steer/pki/operator.key"
    )]
    api_key: PathBuf,
}

impl Socket {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let Some(url) = &self.api else {
            return Ok(Client::new(&self.socket));
        };
        let dial = Dial {
            url,
            ca: &self.api_ca,
            cert: &self.api_cert,
            key: &self.api_key,
        };
        dial.remote().map(Client::remote).map_err(failure)
    }
}

/// Options for the daemon and the output.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[command(flatten)]
    socket: Socket,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

impl Target {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.socket.client()
    }
}

pub(super) fn failure(error: ClientError) -> Failure {
    let exit = match error {
        ClientError::Unreachable { .. }
        | ClientError::Denied { .. }
        | ClientError::Untrusted { .. } => Exit::Unreachable,
        ClientError::Refused(_) => Exit::Refused,
        ClientError::Config(_) => Exit::Config,
        ClientError::Malformed(_) => Exit::Failed,
    };
    Failure::new(exit, error)
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show the memory of each map instead.
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    target: Target,
}

impl Status {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.memory {
            let maps = self.target.client()?.memory().await.map_err(failure)?;
            if self.target.json {
                let total: u64 = maps.iter().map(|map| map.bytes).sum();
                let json = serde_json::json!({ "maps": maps, "total_bytes": total });
                println!("{}", serde_json::to_string_pretty(&json)?);
            } else {
                print!("{}", table::memory(&maps));
            }
            return Ok(());
        }
        let status = self.target.client()?.status().await.map_err(failure)?;
        if self.target.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            anstream::print!("{}", table::status(&status));
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Why {
    /// Name of the backend.
    backend: String,
    #[command(flatten)]
    target: Target,
}

impl Why {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let decisions = self.target.client()?.why(&self.backend).await;
        let decisions = decisions.map_err(failure)?;
        if self.target.json {
            println!("{}", serde_json::to_string_pretty(&decisions)?);
            return Ok(());
        }
        if decisions.is_empty() {
            println!(
                "no decisions about {} since the daemon started; `steer journal show` has earlier \
                 ones",
                self.backend
            );
        }
        for decision in decisions {
            let at = format_rfc3339_millis(decision.at);
            let of = decision
                .service
                .map_or(String::new(), |name| format!(" of {name}"));
            println!("{at}  {}{of}: {}", decision.what, decision.effect);
            if !decision.because.is_empty() {
                println!("    because: {}", decision.because.join("; "));
            }
        }
        Ok(())
    }
}
