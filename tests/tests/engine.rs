//! A beacon, as users run it, beside a real engine.

use std::{
    net::SocketAddr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use steer_probe::{
    pki::{self, Identity, IdentityKind, Validity},
    probe::{
        Budget, HttpTls, Method, ProbeFailure, ProbeSettings, ProbeTarget, ProbeTls,
        ResultReceiver, Sample, Trouble, channel, spawn,
    },
};
use steer_tests::{
    engine::{self, complete, drain, free_port},
    fleet::binary,
    process::Process,
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};

const SLOTS: usize = 2;
const CONTEXT: usize = 65_536;
const LONG: usize = 60_000;
const HOUR: Duration = Duration::from_secs(3600);

/// An engine, its beacon, and a node that probes it.
struct Site {
    folder: TempDir,
    engine: Process,
    address: SocketAddr,
    _beacon: Process,
    measurements: ResultReceiver,
}

impl Site {
    fn new(flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        pki::init(folder.path())?;
        for (kind, name) in [(IdentityKind::Node, "n1"), (IdentityKind::Beacon, "b1")] {
            let identity = Identity::new(kind, "eu", name)?;
            pki::issue(folder.path(), &identity, Validity::for_next(HOUR), &[])?;
        }
        let file = |name: &str| folder.path().join(name);
        let address = free_port()?;
        let engine = engine::start(address, folder.path(), SLOTS, CONTEXT)?;
        let listen = free_port()?;
        let mut beacon = Command::new(binary("steer-beacon")?);
        beacon
            .args(["--listen", &listen.to_string(), "--ca"])
            .arg(file("ca.pem"))
            .arg("--cert")
            .arg(file("b1.pem"))
            .arg("--key")
            .arg(file("b1.key"))
            .args(["--backend", &address.to_string()])
            .args(["--engine", "llama.cpp", "--look-every", "100ms"])
            .args(flags)
            .stderr(std::fs::File::create(file("beacon.log"))?);
        let beacon = Process::spawn(&mut beacon)?;
        let (outbox, measurements) = channel(1);
        let target = ProbeTarget {
            name: "b1".to_owned(),
            region: "eu".to_owned(),
            address: listen,
            method: Method::Beacon,
        };
        let tls = ProbeTls::load(&file("ca.pem"), &file("n1.pem"), &file("n1.key"))?;
        let settings = ProbeSettings {
            node: "n1".to_owned(),
            budget: Budget::new(1, Duration::from_millis(50), HOUR, 1000.0),
            fast_probes: 2,
            timeout: Duration::from_secs(5),
            jitter: 0.1,
            tls: Some(Arc::new(tls)),
            web: HttpTls::new(None, None)?,
        };
        spawn(vec![target], 1, &settings, &outbox);
        Ok(Self {
            folder,
            engine,
            address,
            _beacon: beacon,
            measurements,
        })
    }

    /// Waits for an outcome.
    async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Result<Sample, ProbeFailure>) -> bool,
    ) -> Result<Result<Sample, ProbeFailure>> {
        let mut last = None;
        let waiting = async {
            loop {
                let measurement = self.measurements.next().await.context("no prober")?;
                if wanted(&measurement.outcome) {
                    return Ok(measurement.outcome);
                }
                last = Some(measurement.outcome);
            }
        };
        match timeout(Duration::from_secs(60), waiting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let log = std::fs::read_to_string(self.folder.path().join("beacon.log"))?;
                anyhow::bail!("never {what}; last {last:?}\n{log}")
            }
        }
    }

    /// Waits for a successful sample.
    async fn sample(&mut self, what: &str, wanted: impl Fn(&Sample) -> bool) -> Result<Sample> {
        let outcome = self.until(what, |o| o.as_ref().is_ok_and(&wanted)).await?;
        outcome.context("no sample")
    }

    async fn hung(&mut self, trouble: Trouble) -> Result<()> {
        let hung = |o: &Result<Sample, ProbeFailure>| matches!(o, Err(ProbeFailure::Hung { trouble: t, .. }) if *t == trouble);
        self.until(&format!("{trouble:?}"), hung).await.map(drop)
    }

    /// Starts more requests than the engine processes concurrently.
    async fn busy(&mut self) -> Result<JoinSet<Result<usize>>> {
        let mut requests = JoinSet::new();
        for _ in 0..2 * SLOTS {
            let address = self.address;
            requests.spawn(async move { drain(complete(address, LONG).await?).await });
        }
        let full = |s: &Sample| s.load.running == Some(SLOTS as f64) && s.load.waiting > Some(0.0);
        let sample = self.sample("full", full).await?;
        assert_eq!(sample.load.capacity, Some(SLOTS as f64), "{sample:?}");
        assert_eq!(sample.load.limit, sample.load.capacity);
        assert!(sample.load.age.is_some_and(|age| age < 5.0), "{sample:?}");
        assert!(sample.load.cpu.is_some(), "{sample:?}");
        Ok(requests)
    }
}

fn is_idle(sample: &Sample) -> bool {
    sample.load.running == Some(0.0) && sample.load.waiting == Some(0.0)
}

#[tokio::test]
async fn load_is_what_the_engine_has() -> Result<()> {
    let mut site = Site::new(&[])?;
    site.sample("idle", is_idle).await?;
    let requests = site.busy().await?;
    let fast = |s: &Sample| s.load.tokens_per_second.is_some_and(|n| n > 1.0);
    // The engine counts a request's tokens when it ends.
    let ended = tokio::spawn(async move { drain(complete(site.address, 200).await?).await });
    drop(requests);
    site.sample("tokens are counted", fast).await?;
    ended.await??;
    site.sample("idle again", is_idle).await?;
    Ok(())
}

#[tokio::test]
async fn a_stopped_engine_is_hung_and_a_dead_one_is_down() -> Result<()> {
    let mut site = Site::new(&["--silence", "1s", "--stall", "4s"])?;
    let requests = site.busy().await?;
    let stopped = Instant::now();
    site.engine.signal(libc::SIGSTOP);
    site.hung(Trouble::NoCompletion).await?;
    println!("SIGSTOP was seen after {:?}", stopped.elapsed());
    site.engine.signal(libc::SIGCONT);
    site.sample("back", |s| s.load.has_signal()).await?;

    let killed = Instant::now();
    site.engine.kill();
    let down = |o: &Result<Sample, ProbeFailure>| *o == Err(ProbeFailure::BackendDown);
    site.until("down", down).await.map(drop)?;
    println!("SIGKILL was seen after {:?}", killed.elapsed());
    drop(requests);

    // Its counters restart, which is neither a stall nor load.
    site.engine = engine::start(site.address, site.folder.path(), SLOTS, CONTEXT)?;
    let sample = site.sample("idle", is_idle).await?;
    assert!(sample.load.tokens_per_second.is_none_or(|n| n >= 0.0));
    Ok(())
}

#[tokio::test]
async fn work_without_progress_and_idleness_without_answer_are_seen() -> Result<()> {
    // A slow page must not be what shows it.
    let flags = [
        "--silence",
        "1h",
        "--stall",
        "4s",
        "--completion-every",
        "1s",
    ];
    let mut site = Site::new(&flags)?;
    let requests = site.busy().await?;
    site.engine.signal(libc::SIGSTOP);
    site.hung(Trouble::NoCompletion).await?;
    site.engine.signal(libc::SIGCONT);
    site.sample("goes on", |s| s.load.has_signal()).await?;
    drop(requests);

    site.sample("idle", is_idle).await?;
    site.engine.signal(libc::SIGSTOP);
    site.hung(Trouble::NoCompletion).await?;
    site.engine.signal(libc::SIGCONT);
    site.sample("answers", |s| s.load.has_signal()).await?;
    Ok(())
}
