//! `steer run` and `steer detach`.

use std::path::PathBuf;

use clap::Args;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::error::{Exit, Failure};
use crate::{
    api,
    config::Config,
    control,
    dataplane::{OpenOptions, Pins, Xdp},
    telemetry::{self, LogFormat},
};

/// Questions that may wait for the loop.
const COMMANDS: usize = 64;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
    /// Take the program away at the end, instead of leaving it steer.
    #[arg(long)]
    detach: bool,
}

impl Run {
    #[tokio::main]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        telemetry::start(format)?;
        let config = Config::load(&self.config).map_err(|e| Failure::new(Exit::Config, e))?;
        let node = config.node.clone();
        // First of all, so that of two daemons the second changes nothing.
        let listener = api::bind(&node.socket).await?;
        let xdp = Xdp::open(&OpenOptions {
            bpffs: Some(node.bpffs.clone()),
            ..OpenOptions::default()
        })?;
        info!(adopted = xdp.adopted(), "program loaded");
        let (ask, commands) = mpsc::channel(COMMANDS);
        tokio::spawn(async move {
            if let Err(error) = api::serve(listener, ask).await {
                error!(error = format!("{error:#}"), "no API any more");
            }
        });
        control::run(&self.config, config, xdp, commands).await?;
        // The next daemon replaces a socket that is left behind.
        let _ = std::fs::remove_file(&node.socket);
        if self.detach {
            Pins::new(&node.bpffs).remove()?;
            info!("detached");
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// The configuration, which names the BPF file system.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
    /// The BPF file system, where the configuration is gone or broken.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    bpffs: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self) -> Result<(), Failure> {
        let bpffs = match self.bpffs {
            Some(bpffs) => bpffs,
            None => {
                let config =
                    Config::load(&self.config).map_err(|e| Failure::new(Exit::Config, e))?;
                config.node.bpffs
            }
        };
        let pins = Pins::new(&bpffs);
        let interfaces = pins.interfaces();
        pins.remove()?;
        if interfaces.is_empty() {
            println!("nothing was attached");
        }
        for interface in interfaces {
            println!("detached from {interface}");
        }
        Ok(())
    }
}
