//! `steer watch`.

use clap::Args;
use serde_json::Value;
use steer_core::journal::Event;

use super::{
    ask::{Target, failure},
    error::{Exit, Failure},
    journal,
};

/// Print changes of steering as they happen.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    target: Target,
}

impl Watch {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let json = self.target.json;
        let mut end = None;
        let client = self.target.client()?;
        let watched = client.watch(|line| {
            if json {
                println!("{line}");
            }
            let change: Value = serde_json::from_str(line).unwrap_or_default();
            match change["event"].as_str() {
                Some("end") => end = change["why"].as_str().map(str::to_owned),
                Some("watching" | "alive") | None => {}
                Some(_) if json => {}
                Some(_) => println!("{}", words(&change)),
            }
        });
        watched.await.map_err(failure)?;
        let why = end.unwrap_or_else(|| "the daemon exited".to_owned());
        Err(Failure::new(
            Exit::Failed,
            anyhow::anyhow!("{why}; `steer journal show` has all changes"),
        ))
    }
}

fn words(change: &Value) -> String {
    let at = change["at"].as_str().unwrap_or("");
    match serde_json::from_value::<Event>(change.clone()) {
        Ok(event) => format!("{at}  {}", journal::words(&event)),
        // An event of another version.
        Err(_) => change.to_string(),
    }
}
