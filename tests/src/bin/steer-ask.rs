//! Probes one beacon like a node and prints its reports, for manual tests of a beacon beside an
//! engine outside the test suite.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use steer_probe::probe::{
    Budget, HttpTls, Load, Method, ProbeSettings, ProbeTarget, ProbeTls, channel, spawn,
};
use tokio::time::timeout_at;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Parser)]
struct Arguments {
    /// Address of the beacon.
    beacon: SocketAddr,
    /// Name in its certificate.
    #[arg(long, default_value = "b1")]
    name: String,
    /// Region in its certificate.
    #[arg(long, default_value = "eu")]
    region: String,
    /// Directory with `ca.pem`, `n1.pem` and `n1.key`.
    #[arg(long)]
    pki: PathBuf,
    /// Interval between probes in milliseconds.
    #[arg(long, default_value_t = 100)]
    interval: u64,
    /// Duration in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let file = |name: &str| arguments.pki.join(name);
    let tls = ProbeTls::load(&file("ca.pem"), &file("n1.pem"), &file("n1.key"))?;
    let settings = ProbeSettings {
        node: "n1".to_owned(),
        budget: Budget::new(1, Duration::from_millis(arguments.interval), HOUR, 1000.0),
        fast_probes: 2,
        timeout: Duration::from_secs(5),
        jitter: 0.1,
        tls: Some(Arc::new(tls)),
        web: HttpTls::new(None, None)?,
    };
    let target = ProbeTarget {
        name: arguments.name,
        region: arguments.region,
        address: arguments.beacon,
        method: Method::Beacon,
    };
    let (outbox, mut measurements) = channel(1);
    spawn(vec![target], 1, &settings, &outbox);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let mut last = String::new();
    while let Ok(measurement) = timeout_at(end.into(), measurements.next()).await {
        let measurement = measurement.context("the prober ended")?;
        let said = match &measurement.outcome {
            Ok(sample) => told(&sample.load),
            Err(failure) => format!("down: {failure}"),
        };
        // Print only changes.
        if said != last {
            let at = measurement.at.duration_since(begin).as_secs_f64();
            println!("{at:8.2} {said}");
            last = said;
        }
    }
    Ok(())
}

/// Returns the load as text, rounded so that small changes do not show.
fn told(load: &Load) -> String {
    let number = |value: Option<f64>| value.map_or("?".to_owned(), |v| format!("{v}"));
    let rounded = |value: Option<f64>| value.map_or("?".to_owned(), |v| format!("{v:.2}"));
    let mut told = format!(
        "up: running {} waiting {} capacity {} kv {}",
        number(load.running),
        number(load.waiting),
        number(load.capacity),
        rounded(load.kv_use),
    );
    if let Some(why) = load.no_signal {
        told += &format!("; no signal: {why}");
    }
    if let Some((hint, _)) = load.hint {
        told += &format!("; hint: {hint}");
    }
    for note in &load.notes {
        told += &format!("; note: {note}");
    }
    told
}
