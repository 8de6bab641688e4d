//! Prober and beacon over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::beacon::{Beacon, BeaconConfig};
use crate::pki::{self, Identity, IdentityKind, Validity};

pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) struct Lab(TempDir);

pub(super) struct Running {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Lab {
    /// Creates a CA with a node `n1` and a beacon `b1`, both in region `eu`.
    pub(super) fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        pki::init(lab.0.path()).unwrap();
        lab.issue(IdentityKind::Node, "eu", "n1", Validity::for_next(HOUR));
        lab.issue(IdentityKind::Beacon, "eu", "b1", Validity::for_next(HOUR));
        lab
    }

    fn issue(&self, kind: IdentityKind, region: &str, name: &str, validity: Validity) {
        let identity = Identity::new(kind, region, name).unwrap();
        pki::issue(self.0.path(), &identity, validity, &[]).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(super) fn beacon(&self, name: &str) -> BeaconConfig {
        BeaconConfig {
            listen: LOOPBACK,
            ca: self.path("ca.pem"),
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            backend_check: None,
            engine: None,
            drain_file: None,
            probe_budget: None,
            connections_per_node: 8,
        }
    }

    pub(super) fn tls(&self, name: &str) -> ProbeTls {
        let file = |suffix| self.path(&format!("{name}.{suffix}"));
        ProbeTls::load(&self.path("ca.pem"), &file("pem"), &file("key")).unwrap()
    }

    pub(super) fn probe(&self, address: SocketAddr) -> ResultReceiver {
        probe(address, settings(self.tls("n1")))
    }
}

fn pace(interval: Duration, handshake_every: Duration) -> Arc<Budget> {
    Budget::new(1, interval, handshake_every, 1e6)
}

pub(super) fn settings(tls: ProbeTls) -> ProbeSettings {
    ProbeSettings {
        node: "n1".to_owned(),
        budget: pace(Duration::from_millis(20), HOUR),
        fast_probes: 2,
        timeout: Duration::from_secs(5),
        jitter: 0.2,
        tls: Some(Arc::new(tls)),
        web: HttpTls::new(None, None).unwrap(),
    }
}

pub(super) fn probe(address: SocketAddr, settings: ProbeSettings) -> ResultReceiver {
    let (outbox, inbox) = channel(1);
    let target = ProbeTarget {
        name: "b1".to_owned(),
        region: "eu".to_owned(),
        address,
        method: Method::Beacon,
    };
    spawn(vec![target], 1, &settings, &outbox);
    inbox
}

pub(super) async fn start(config: &BeaconConfig) -> Running {
    let beacon = Beacon::bind(config).await.unwrap();
    let address = beacon.local_addr();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(beacon.serve(async { drop(stopped.await) }));
    Running {
        address,
        stop,
        task,
    }
}

pub(super) async fn next(rx: &mut ResultReceiver) -> Result<Sample, ProbeFailure> {
    let measured = tokio::time::timeout(Duration::from_secs(20), rx.next())
        .await
        .unwrap();
    measured.unwrap().outcome
}

async fn until(
    rx: &mut ResultReceiver,
    wanted: impl Fn(&Result<Sample, ProbeFailure>) -> bool,
) -> Result<Sample, ProbeFailure> {
    loop {
        let outcome = next(rx).await;
        if wanted(&outcome) {
            return outcome;
        }
    }
}

/// Starts a beacon with valid certificates that answers each ping with the result of `answer`.
fn rogue(config: &BeaconConfig, answer: impl Fn(u64) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let mut server = crate::beacon::tls::server(config).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport.initial_mtu(1452);
    server.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::server(server, LOOPBACK).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        while let Ok(ping) = connection.read_datagram().await {
            let reply = answer(wire::decode_ping(&ping).unwrap());
            connection.send_datagram(Bytes::from(reply)).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_good_beacon_is_measured() {
    let lab = Lab::new();
    let running = start(&lab.beacon("b1")).await;
    let mut rx = lab.probe(running.address);
    let first = next(&mut rx).await.unwrap();
    assert!(first.handshake.is_some());
    assert!(first.rtt < Duration::from_secs(1));
    assert!(first.load.memory.is_some_and(|used| used > 0.0));
    assert!(first.load.cpu.is_some());
    assert!(!first.load.has_signal());
    assert!(!first.report.draining());
    assert_eq!(next(&mut rx).await.unwrap().handshake, None);
}

#[tokio::test]
async fn draining_is_reported() {
    let lab = Lab::new();
    let beacon = Beacon::bind(&lab.beacon("b1")).await.unwrap();
    beacon.drain_switch().send_replace(true);
    let mut rx = lab.probe(beacon.local_addr());
    tokio::spawn(beacon.serve(std::future::pending()));
    assert!(next(&mut rx).await.unwrap().report.draining());
}

#[tokio::test]
async fn fresh_connections_are_made_when_due() {
    let lab = Lab::new();
    let running = start(&lab.beacon("b1")).await;
    let always = ProbeSettings {
        budget: pace(Duration::from_millis(20), Duration::ZERO),
        ..settings(lab.tls("n1"))
    };
    let mut rx = probe(running.address, always);
    for _ in 0..3 {
        until(&mut rx, |o| o.as_ref().is_ok_and(|s| s.handshake.is_some()))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_beacon_of_another_ca_is_not_trusted() {
    let (lab, other) = (Lab::new(), Lab::new());
    let config = BeaconConfig {
        ca: lab.path("ca.pem"),
        ..other.beacon("b1")
    };
    let running = start(&config).await;
    let failure = next(&mut lab.probe(running.address)).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Tls(_)), "{failure}");
}

#[tokio::test]
async fn expired_certificates_are_not_trusted() {
    let lab = Lab::new();
    let mut past = Validity::for_next(HOUR);
    past.not_after = past.not_before + Duration::from_secs(60);
    let server = Lab::new();
    std::fs::remove_file(server.path("b1.pem")).unwrap();
    std::fs::remove_file(server.path("b1.key")).unwrap();
    server.issue(IdentityKind::Beacon, "eu", "b1", past);
    let running = start(&server.beacon("b1")).await;
    let failure = next(&mut server.probe(running.address)).await.unwrap_err();
    assert!(
        matches!(&failure, ProbeFailure::Tls(e) if e.contains("expired")),
        "{failure}"
    );

    lab.issue(IdentityKind::Node, "eu", "n2", past);
    let running = start(&lab.beacon("b1")).await;
    let failure = next(&mut probe(running.address, settings(lab.tls("n2"))))
        .await
        .unwrap_err();
    assert!(matches!(failure, ProbeFailure::Tls(_)), "{failure}");
}

#[tokio::test]
async fn another_name_or_region_is_a_wrong_identity() {
    let lab = Lab::new();
    lab.issue(IdentityKind::Beacon, "eu", "b2", Validity::for_next(HOUR));
    let running = start(&lab.beacon("b2")).await;
    let failure = next(&mut lab.probe(running.address)).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Identity(_)), "{failure}");

    std::fs::remove_file(lab.path("b1.pem")).unwrap();
    std::fs::remove_file(lab.path("b1.key")).unwrap();
    lab.issue(IdentityKind::Beacon, "us", "b1", Validity::for_next(HOUR));
    let running = start(&lab.beacon("b1")).await;
    let failure = next(&mut lab.probe(running.address)).await.unwrap_err();
    assert!(
        matches!(&failure, ProbeFailure::Identity(e) if e.contains("steer://beacon/us/b1")),
        "{failure}"
    );
}

#[tokio::test]
async fn only_nodes_may_ask() {
    let (lab, other) = (Lab::new(), Lab::new());
    let running = start(&lab.beacon("b1")).await;
    let foreign = ProbeTls::load(
        &lab.path("ca.pem"),
        &other.path("n1.pem"),
        &other.path("n1.key"),
    )
    .unwrap();
    for tls in [lab.tls("n1").anonymous(), lab.tls("b1"), foreign] {
        let mut rx = probe(running.address, settings(tls));
        for _ in 0..3 {
            let failure = next(&mut rx).await.unwrap_err();
            assert!(matches!(failure, ProbeFailure::Tls(_)), "{failure}");
        }
    }
}

#[tokio::test]
async fn malformed_reports_are_failures() {
    let lab = Lab::new();
    let reply = |seq, report: &OrcaLoadReport| {
        let mut out = wire::encode_reply(seq, &OrcaLoadReport::default(), 1200)
            .unwrap()
            .to_vec();
        out.truncate(wire::HEADER_LEN);
        out.extend(report.encode_length_delimited_to_vec());
        out
    };
    let nan = OrcaLoadReport {
        eps: f64::NAN,
        ..Default::default()
    };
    let good = OrcaLoadReport {
        eps: 1.0,
        ..Default::default()
    };
    let mut big = good.clone();
    big.named_metrics.insert("x".repeat(1280), 1.0);
    let (cut, late) = (good.clone(), good);
    let cases = [
        rogue(&lab.beacon("b1"), move |seq| reply(seq, &nan)),
        rogue(&lab.beacon("b1"), move |seq| reply(seq, &big)),
        rogue(&lab.beacon("b1"), move |seq| {
            let mut out = reply(seq, &cut);
            out.pop();
            out
        }),
        rogue(&lab.beacon("b1"), move |seq| reply(seq + 1, &late)),
        rogue(&lab.beacon("b1"), |_| Vec::new()),
    ];
    for (case, address) in cases.into_iter().enumerate() {
        let failure = next(&mut lab.probe(address)).await.unwrap_err();
        assert!(
            matches!(failure, ProbeFailure::Malformed(_)),
            "case {case}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_beacon_that_stops_is_seen_at_once_and_found_again() {
    let lab = Lab::new();
    let mut config = lab.beacon("b1");
    let running = start(&config).await;
    // Pings are too rare to detect it.
    let rare = ProbeSettings {
        budget: pace(HOUR, HOUR),
        jitter: 0.0,
        ..settings(lab.tls("n1"))
    };
    let mut rx = probe(running.address, rare);
    next(&mut rx).await.unwrap();
    running.stop.send(()).unwrap();
    let failure = next(&mut rx).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Refused(_)), "{failure}");
    running.task.await.unwrap();

    config.listen = running.address;
    let _again = start(&config).await;
    until(&mut rx, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn a_beacon_that_dies_without_a_word_is_noticed_by_its_silence() {
    let lab = Lab::new();
    let process = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = lab.beacon("b1");
    let running = process
        .spawn(async move { start(&config).await })
        .await
        .unwrap();
    let mut rx = lab.probe(running.address);
    next(&mut rx).await.unwrap();
    let killed = Instant::now();
    process.shutdown_background();
    let failure = until(&mut rx, Result::is_err).await.unwrap_err();
    // The kernel reports an unreachable port, as an attacker could.
    assert_eq!(failure, ProbeFailure::Timeout);
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
}

#[tokio::test]
async fn a_port_without_a_beacon_times_out_as_a_silent_one_does() {
    let lab = Lab::new();
    let silent = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = silent.local_addr().unwrap();
    let short = ProbeSettings {
        timeout: Duration::from_millis(100),
        ..settings(lab.tls("n1"))
    };
    assert_eq!(
        next(&mut probe(address, short.clone())).await,
        Err(ProbeFailure::Timeout)
    );
    drop(silent);
    assert_eq!(
        next(&mut probe(address, short)).await,
        Err(ProbeFailure::Timeout)
    );
}

#[tokio::test]
async fn a_beacon_does_not_vouch_for_a_dead_backend() {
    let lab = Lab::new();
    let backend = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = backend.local_addr().unwrap();
    let config = BeaconConfig {
        backend_check: Some(address),
        ..lab.beacon("b1")
    };
    let running = start(&config).await;
    let mut rx = lab.probe(running.address);
    assert_eq!(
        next(&mut rx).await.unwrap().report.named_metrics[BACKEND_UP],
        1.0
    );
    drop(backend);
    assert_eq!(
        until(&mut rx, Result::is_err).await,
        Err(ProbeFailure::BackendDown)
    );
    let _backend = TcpListener::bind(address).await.unwrap();
    until(&mut rx, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn a_node_has_so_many_connections_and_the_oldest_makes_room() {
    let lab = Lab::new();
    let config = BeaconConfig {
        connections_per_node: 2,
        ..lab.beacon("b1")
    };
    let running = start(&config).await;
    let (mut first, mut second) = (lab.probe(running.address), lab.probe(running.address));
    next(&mut first).await.unwrap();
    next(&mut second).await.unwrap();
    // Nobody continues these connections, as after a SIGKILL, and yet there is room for a restarted
    // node.
    next(&mut lab.probe(running.address)).await.unwrap();
    let failure = until(&mut first, Result::is_err).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Refused(_)), "{failure}");
}

#[tokio::test]
async fn a_budget_of_the_beacon_is_kept() {
    let lab = Lab::new();
    let config = BeaconConfig {
        probe_budget: Some(4.0),
        ..lab.beacon("b1")
    };
    let running = start(&config).await;
    let mut rx = lab.probe(running.address);
    next(&mut rx).await.unwrap();
    let begun = Instant::now();
    for _ in 0..3 {
        next(&mut rx).await.unwrap();
    }
    // Three quarters of a second, minus the jitter.
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
}

/// Replaces the files of a lab, as a renewal does.
fn rotate(lab: &Lab, from: &Lab, files: &[&str]) {
    for file in files {
        let new = lab.path(&format!("{file}.new"));
        std::fs::copy(from.path(file), &new).unwrap();
        std::fs::rename(new, lab.path(file)).unwrap();
    }
}

/// Probes with fresh connections until the answer is as expected.
async fn answers(address: SocketAddr, tls: &ProbeTls, wanted: bool) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = next(&mut probe(address, settings(tls.clone()))).await;
        if answer.is_ok() == wanted {
            return;
        }
        assert!(Instant::now() < end, "{answer:?}");
    }
}

#[tokio::test]
async fn a_beacon_takes_new_certificates_and_leaves_its_connections() {
    let (lab, other) = (Lab::new(), Lab::new());
    let running = start(&lab.beacon("b1")).await;
    let mut open = lab.probe(running.address);
    next(&mut open).await.unwrap();
    let old = lab.tls("n1");

    // Half of a pair, or an unreadable file, changes nothing.
    rotate(&lab, &other, &["b1.pem"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    answers(running.address, &old, true).await;
    std::fs::write(lab.path("b1.key"), "no key").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    answers(running.address, &old, true).await;
    answers(running.address, &other.tls("n1"), false).await;

    rotate(&lab, &other, &["ca.pem", "b1.key"]);
    answers(running.address, &other.tls("n1"), true).await;
    answers(running.address, &old, false).await;
    for _ in 0..3 {
        next(&mut open).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_takes_new_certificates_and_leaves_its_connections() {
    let (lab, other) = (Lab::new(), Lab::new());
    let [ours, theirs] = [
        start(&lab.beacon("b1")).await,
        start(&other.beacon("b1")).await,
    ];
    let tls = lab.tls("n1");
    let mut open = probe(ours.address, settings(tls.clone()));
    next(&mut open).await.unwrap();
    answers(theirs.address, &tls, false).await;

    rotate(&lab, &other, &["n1.pem"]);
    let error = tls.refresh().unwrap_err().to_string();
    assert!(
        error.contains("n1.pem") && error.contains("another certificate"),
        "{error}"
    );
    assert!(
        !tls.refresh().unwrap(),
        "it was tried again without a change"
    );
    answers(ours.address, &tls, true).await;

    rotate(&lab, &other, &["n1.key"]);
    let error = tls.refresh().unwrap_err().to_string();
    assert!(error.contains("n1.pem: not usable"), "{error}");
    rotate(&lab, &other, &["ca.pem"]);
    assert!(tls.refresh().unwrap());
    answers(theirs.address, &tls, true).await;
    answers(ours.address, &tls, false).await;
    for _ in 0..3 {
        next(&mut open).await.unwrap();
    }
}
