//! Chat and echo servers and the load client, across namespaces; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use steer_tests::echo::Echo;
use steer_tests::load::Load;
use steer_tests::process::Process;
use steer_tests::summary::Summary;
use steer_tests::topology::{Backend, Site};

fn start_chat(backend: &Backend) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steer-chat"));
    command.args([
        "--listen",
        "[::]:80",
        "--tls-listen",
        "[::]:443",
        "--name",
        "a",
    ]);
    command.args(["--ttft", "20", "--gap", "10", "--tokens", "5"]);
    let mut process = backend.namespace.spawn(command).unwrap();
    process.wait_for("ready").unwrap();
    process
}

#[test]
fn answers_are_streamed_over_tcp_and_tls() {
    let site = Site::new(&[None]).unwrap();
    let backend = &site.backends[0];
    let _chat = start_chat(backend);
    for (address, port, tls) in [
        (backend.v4.into(), 80, false),
        (backend.v4.into(), 443, true),
        (backend.v6.into(), 443, true),
    ] {
        let duration = Duration::from_millis(300);
        let load = Load {
            tls,
            duration,
            ..Load::new(SocketAddr::new(address, port))
        };
        let samples = load.run_in(&site.client).unwrap();
        let summary = Summary::from_samples(&samples);
        assert_eq!(
            (summary.failures, summary.share("a")),
            (0, 1.0),
            "{samples:?}"
        );
        assert!(summary.requests >= 8, "{summary:?}");
        let [first, total] = [summary.first[0], summary.total[0]];
        assert!(first >= Duration::from_millis(20), "{summary:?}");
        assert!(
            total >= first + Duration::from_millis(35),
            "not streamed: {summary:?}"
        );
    }
}

#[test]
fn an_answer_holds_every_token_and_its_end() {
    let site = Site::new(&[None]).unwrap();
    let backend = &site.backends[0];
    let _chat = start_chat(backend);
    let ask = |request: &str| {
        let answer = site.client.enter(|| {
            let mut stream = TcpStream::connect((backend.v4, 80)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        answer.unwrap()
    };
    let post = |body: &str| {
        let length = body.len();
        ask(&format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        ))
    };
    let answer = post(r#"{"stream":true}"#);
    assert!(answer.contains("x-backend: a\r\n"), "{answer}");
    assert_eq!(answer.matches("data: {").count(), 5, "{answer}");
    assert_eq!(answer.matches("data: [DONE]\n\n").count(), 1, "{answer}");
    assert!(post("{}").contains(r#""content":"t0 t1 t2 t3 t4 ""#));
    assert!(post("?").starts_with("HTTP/1.1 400 "));
    let health = ask("GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(
        health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\nok\n\r\n0\r\n\r\n"),
        "{health}"
    );
}

#[test]
fn a_killed_server_shows_as_failures_from_then_on() {
    let site = Site::new(&[None]).unwrap();
    let mut chat = start_chat(&site.backends[0]);
    let load = Load::new((site.backends[0].v4, 80).into());
    let running = load.start_in(&site.client).unwrap();
    sleep(Duration::from_millis(500));
    let killed = Instant::now();
    chat.kill();
    let samples = running.finish().unwrap();
    let summary = Summary::from_samples(&samples);
    assert!(
        summary.answers["a"] >= 8 && summary.last_failure > Some(killed),
        "{summary:?}"
    );
    for sample in &samples {
        let whole = sample.start + sample.total < killed;
        assert_eq!(sample.error.is_none(), whole, "{sample:?}");
    }
    let cut = samples
        .iter()
        .find(|sample| sample.error.is_some() && sample.start < killed);
    assert_eq!(cut.unwrap().backend.as_deref().unwrap_or("a"), "a");
}

#[test]
fn a_silent_server_shows_as_timeouts() {
    let site = Site::new(&[None]).unwrap();
    site.backends[0]
        .namespace
        .run(&["ip", "link", "set", "eth0", "down"])
        .unwrap();
    let timeout = Duration::from_millis(200);
    let load = Load {
        concurrency: 1,
        timeout,
        ..Load::new((site.backends[0].v4, 80).into())
    };
    let samples = load.run_in(&site.client).unwrap();
    assert!(!samples.is_empty() && samples.iter().all(|sample| sample.error.is_some()));
}

#[test]
fn echo_servers_say_who_they_are_and_whom_they_see() {
    let site = Site::new(&[None]).unwrap();
    let backend = &site.backends[0];
    for (server, client) in [
        (SocketAddr::from((backend.v4, 9)), site.client_v4().into()),
        (SocketAddr::from((backend.v6, 9)), site.client_v6().into()),
    ] {
        let _echo = Echo::start_in(&backend.namespace, server, "b").unwrap();
        assert!(Echo::start_in(&backend.namespace, server, "c").is_err());
        let client: std::net::IpAddr = client;
        site.client
            .enter(|| {
                let udp = UdpSocket::bind((client, 5000)).unwrap();
                udp.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                udp.send_to(b"?", server).unwrap();
                let mut buffer = [0; 100];
                let (length, from) = udp.recv_from(&mut buffer).unwrap();
                let expected = format!("b {}\n", SocketAddr::new(client, 5000));
                assert_eq!((&buffer[..length], from), (expected.as_bytes(), server));

                let mut tcp = TcpStream::connect(server).unwrap();
                let expected = format!("b {}\n", tcp.local_addr().unwrap());
                let mut reader = BufReader::new(tcp.try_clone().unwrap());
                for _ in 0..2 {
                    tcp.write_all(b"?").unwrap();
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    assert_eq!(line, expected);
                }
            })
            .unwrap();
    }
}
