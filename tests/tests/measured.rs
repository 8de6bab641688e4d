//! Latencies of a backend measured by the data path in mode `nat`, against those measured by its
//! client; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use steer_common::abi::{Measure, Mode, bucket};
use steer_core::{
    dataplane::TrafficCounters as _,
    domain::latency::{Latencies, Readings},
};
use steer_tests::{
    chat::{Chat, Engine},
    netns::Namespace,
    steering::steer,
    topology::{Site, VIP_V4, VIP_V6},
};
use tokio::{net::TcpListener, runtime};

const PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(10);
/// One-way delay, long enough that a bucket is wider than scheduling delays.
const ONE_WAY: Duration = Duration::from_millis(40);
const FIRST_TOKEN: Duration = Duration::from_millis(180);
const GAP: Duration = Duration::from_millis(90);
const TOKENS: u32 = 5;
const CLIENTS: usize = 6;
const REQUESTS: usize = 5;
/// Burst gap set in the data path.
const BURST_GAP: Duration = Duration::from_millis(2);

/// Serves in a namespace for as long as the test runs.
fn serve(namespace: &Namespace, address: SocketAddr) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let chat = Chat {
                name: "measured".to_owned(),
                first_token: FIRST_TOKEN,
                gap: GAP,
                tokens: TOKENS,
                engine: Engine::default(),
                fault: None,
            };
            let listener = TcpListener::bind(address).await?;
            ready.send(())?;
            Arc::new(chat).serve(listener, None).await
        })
    };
    drop(namespace.thread(server).unwrap());
    is_ready.recv_timeout(TIMEOUT).unwrap();
}

/// Sends `REQUESTS` requests over one connection, and records all times.
fn ask(vip: IpAddr) -> Latencies {
    let mut seen = Latencies::default();
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), TIMEOUT).unwrap();
    seen.connect.record(start.elapsed());
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"?"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: chat\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..REQUESTS {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut bursts, mut heard) = (0, asked);
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            let mut part = [0; 4096];
            let len = stream.read(&mut part).unwrap();
            assert!(len > 0, "cut short");
            let now = Instant::now();
            if bursts == 0 {
                seen.first_byte.record(now - asked);
                bursts = 1;
            } else if now - heard > BURST_GAP {
                bursts += 1;
                if bursts == 2 {
                    seen.second_burst.record(now - asked);
                } else {
                    seen.gap.record(now - heard);
                }
            }
            heard = now;
            answer.extend_from_slice(&part[..len]);
        }
    }
    seen
}

fn measure(vip: IpAddr, member: u16, site: &Site) {
    let mut xdp = steer(site, Mode::Nat).unwrap();
    xdp.maps().set_latency_members(&[member]).unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| site.client.thread(move || ask(vip)).unwrap())
        .collect();
    let mut seen = Latencies::default();
    for client in clients {
        seen.add(&client.join().unwrap().unwrap());
    }
    let mut readings = Readings::default();
    readings.add_reading(&xdp.maps().latency(member).unwrap().unwrap());
    let found = readings.total();
    for measure in Measure::ALL {
        let (seen, found) = (seen.histogram(measure), found.histogram(measure));
        assert_eq!(seen.count(), found.count(), "{measure:?}");
        for share in [0.5, 0.95, 0.99] {
            let at = |time: Option<Duration>| bucket(time.unwrap().as_nanos() as u64);
            let (client, node) = (seen.quantile(share), found.quantile(share));
            assert!(
                at(client).abs_diff(at(node)) <= 1,
                "{measure:?} {share}: the client says {client:?}, the node {node:?}"
            );
        }
        println!(
            "{measure:?}: p50 {:?}, p99 {:?}",
            found.quantile(0.5),
            found.quantile(0.99)
        );
    }
    let signals = xdp.maps().signals(member);
    assert_eq!(signals.accepted, CLIENTS as u64);
    assert_eq!((signals.refused, signals.unanswered), (0, 0));
}

#[test]
fn quantiles_are_those_that_the_client_measures() {
    let site = Site::new(&[Some(ONE_WAY)]).unwrap();
    let backend = &site.backends[0];
    for address in [IpAddr::V4(backend.v4), backend.v6.into()] {
        serve(&backend.namespace, SocketAddr::new(address, PORT));
    }
    measure(VIP_V4.into(), 1, &site);
    measure(VIP_V6.into(), 101, &site);
}

#[test]
fn a_backend_where_nobody_listens_refuses() {
    let site = Site::new(&[None]).unwrap();
    let mut xdp = steer(&site, Mode::Nat).unwrap();
    for (vip, member) in [(IpAddr::from(VIP_V4), 1), (VIP_V6.into(), 101)] {
        let refused = site
            .client
            .enter(|| TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), TIMEOUT).is_err());
        assert!(refused.unwrap());
        // The program counts a packet before it is sent on.
        assert_eq!(xdp.maps().signals(member).refused, 1);
    }
}
