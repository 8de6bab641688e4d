//! Live packets, as `steer trace` shows them; needs root and tshark.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use steer_common::abi::TraceFilter;
use steer_dataplane::{OpenOptions, Pins, Sizes, Xdp};
use steer_tests::{
    bpffs::Bpffs,
    fleet::{Fleet, HTTP, Plan, binary, wait},
    load::Load,
    packet::{ACK, TestPacket, icmp, ip_around},
    process::Process,
    topology::NODE_CLIENT_PORT,
};

const LIMIT: Duration = Duration::from_secs(20);

fn fleet(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], mode)).unwrap();
    fleet.start().unwrap();
    fleet
}

/// Sends two requests to the service.
fn ask(fleet: &Fleet) {
    let load = Load {
        duration: Duration::from_millis(100),
        timeout: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    let samples = load.run_in(&fleet.site.client).unwrap();
    assert!(samples.iter().any(|sample| sample.error.is_none()));
}

/// Starts `steer trace` with these options.
fn trace(fleet: &Fleet, options: &[&str]) -> Process {
    let mut command = Command::new(binary("steer").unwrap());
    command
        .arg("trace")
        .args(options)
        .arg("--socket")
        .arg(fleet.path("steer.sock"))
        .stderr(Stdio::inherit());
    let process = Process::spawn(&mut command).unwrap();
    wait(LIMIT, "it traces", || {
        Ok(fleet.status()?["traced_by"].is_string())
    })
    .unwrap();
    process
}

fn ended(fleet: &Fleet) {
    wait(LIMIT, "nobody traces", || {
        Ok(fleet.status()?["traced_by"].is_null())
    })
    .unwrap();
}

fn json(process: &mut Process) -> Value {
    let line = process.read_line().unwrap().expect("it has ended");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Returns the id of the program on the node's interface to the client.
fn program(fleet: &Fleet) -> String {
    let show = ["ip", "-d", "link", "show", NODE_CLIENT_PORT];
    let link = fleet.site.node.run(&show).unwrap();
    let words: Vec<&str> = link.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "prog/xdp").unwrap();
    words[at + 2].to_owned()
}

#[test]
fn packets_are_told_with_their_verdicts_names_and_bytes() {
    let fleet = fleet("nat");
    fleet.cli(&["backend", "drain", "two"]).unwrap();
    let usual = program(&fleet);
    let port = HTTP.to_string();
    let mut traced = trace(&fleet, &["--json", "--port", &port, "--backend", "one"]);
    assert_ne!(program(&fleet), usual);
    ask(&fleet);
    let first = json(&mut traced);
    assert_eq!(first["verdict"], "sent", "{first}");
    assert_eq!(first["interface"], "client", "{first}");
    assert_eq!(first["sent_by"], "backend0", "{first}");
    assert_eq!(first["service"], "chat", "{first}");
    assert_eq!(first["backend"], "one", "{first}");
    assert_eq!(first["destination_port"], HTTP, "{first}");
    let vip = fleet.vip().to_string();
    assert_eq!(first["destination"], vip, "{first}");
    assert!(
        first["steps"]
            .as_array()
            .unwrap()
            .contains(&"in the nat table".into()),
        "{first}"
    );
    // Address and port of the VIP are in the packet as received, the backend's in the packet as
    // sent.
    let hex = |name: &str| first[name].as_str().unwrap().to_owned();
    assert!(hex("before").contains("0a630001"), "{first}");
    assert!(!hex("after").contains("0a630001"), "{first}");
    assert!(hex("after").contains("0a4d0102"), "{first}");
    let answer = json(&mut traced);
    assert_eq!(answer["interface"], "backend0", "{answer}");
    assert_eq!(answer["sent_by"], "client", "{answer}");
    assert_eq!(answer["service"], "chat", "{answer}");
    assert!(
        answer["steps"]
            .as_array()
            .unwrap()
            .contains(&"answer of the backend".into()),
        "{answer}"
    );
    drop(traced);
    ended(&fleet);
    assert_eq!(program(&fleet), usual);
    ask(&fleet);
}

#[test]
fn words_counts_and_filters_of_verdicts() {
    let fleet = fleet("ipip");
    let options = ["--verdict", "passed", "--protocol", "udp", "--port", "9"];
    let mut passed = trace(&fleet, &[&options[..], &["--count", "2"]].concat());
    let sent = fleet.site.client.enter(|| {
        let socket = UdpSocket::bind(("10.77.0.2", 0)).unwrap();
        // The second send may report that the first one was refused.
        (0..4)
            .filter(|_| socket.send_to(&[0; 8], ("10.77.0.1", 9)).is_ok())
            .count()
    });
    assert!(sent.unwrap() >= 2);
    for _ in 0..2 {
        let line = passed.read_line().unwrap().unwrap();
        assert!(line.contains("udp 10.77.0.2:"), "{line}");
        assert!(line.contains("> 10.77.0.1:9"), "{line}");
        assert!(line.ends_with(": passed"), "{line}");
    }
    assert_eq!(
        passed.read_line().unwrap(),
        None,
        "it ends after as many as were asked for"
    );
    ended(&fleet);

    let mut tunnels = trace(
        &fleet,
        &["--service", "chat", "--verdict", "sent", "--sample", "2"],
    );
    ask(&fleet);
    let line = tunnels.read_line().unwrap().unwrap();
    assert!(line.contains("tcp 10.77.0.2:"), "{line}");
    assert!(line.contains("sent to "), "{line}");
    assert!(line.contains("; left as ipip 10.98.0.1 > 10.77."), "{line}");
    assert!(line.contains(" around tcp 10.77.0.2:"), "{line}");
    // One trace at a time.
    let second = format!("{:#}", fleet.cli(&["trace"]).unwrap_err());
    assert!(second.contains("is tracing; one can at a time"), "{second}");
    drop(tunnels);
    ended(&fleet);
    for (option, value, says) in [
        ("--service", "nobody", "no service is called"),
        ("--backend", "nobody", "no backend is called"),
        ("--verdict", "kept", "passed, dropped, sent or answered"),
        ("--reason", "whim", "rate-limited"),
    ] {
        let error = format!("{:#}", fleet.cli(&["trace", option, value]).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn drops_are_told_with_their_reason() {
    let fleet = fleet("nat");
    // An unknown open flow is reset: the packet is answered.
    let mut resets = trace(
        &fleet,
        &["--json", "--verdict", "answered", "--reason", "reset"],
    );
    let address = fleet.vip();
    fleet
        .site
        .client
        .enter(|| send_open_segment(fleet.site.client_v4(), address, HTTP))
        .unwrap();
    let told = json(&mut resets);
    assert_eq!(told["reason"], "reset", "{told}");
    assert_eq!(told["sent_by"], "client", "{told}");
}

/// Checks the filter by client for both directions: a backend's packets contain an address of the
/// node, and not the client's.
#[test]
fn both_ways_of_a_nat_flow_fit_its_client() {
    let fleet = fleet("nat");
    fleet.cli(&["backend", "drain", "two"]).unwrap();
    let client = fleet.site.client_v4().to_string();
    let options = ["--json", "--address", &client, "--protocol", "tcp"];
    let mut traced = trace(&fleet, &options);
    ask(&fleet);
    let (mut sent, mut answered) = (Value::Null, Value::Null);
    while sent.is_null() || answered.is_null() {
        let told = json(&mut traced);
        let is_to_backend = told["interface"] == "client";
        *(if is_to_backend {
            &mut sent
        } else {
            &mut answered
        }) = told;
    }
    assert_eq!(sent["source"], client, "{sent}");
    assert_eq!(answered["interface"], "backend0", "{answered}");
    assert_eq!(answered["sent_by"], "client", "{answered}");
    assert_eq!(answered["backend"], "one", "{answered}");
    assert_ne!(answered["destination"], client, "{answered}");
    assert!(
        answered["steps"]
            .as_array()
            .unwrap()
            .contains(&"answer of the backend".into()),
        "{answered}"
    );

    // The backend's ICMP error about a packet of the flow. Other clients' flows do not match.
    let [backend, node] = ["source", "destination"].map(|name| {
        let address: IpAddr = answered[name].as_str().unwrap().parse().unwrap();
        address
    });
    let [backend_port, node_port] =
        ["source_port", "destination_port"].map(|name| answered[name].as_u64().unwrap() as u16);
    let error = |to_port| {
        let quoted = TestPacket::tcp((node, node_port), (backend, to_port), ACK).ip();
        let message = icmp([backend, node], [3, 1], 0, &quoted[..28]);
        ip_around([backend, node], 64, 1, &message)
    };
    drop(traced);
    ended(&fleet);
    let mut traced = trace(&fleet, &["--json", "--address", &client]);
    let namespace = &fleet.site.backends[0].namespace;
    for port in [backend_port + 1, backend_port] {
        namespace.enter(|| send_raw(&error(port), node)).unwrap();
    }
    let told = json(&mut traced);
    assert_eq!(told["verdict"], "sent", "{told}");
    assert_eq!(told["source_port"], backend_port, "{told}");
    assert_eq!(told["sent_by"], "client", "{told}");
    assert!(told["before"].as_str().unwrap().contains("0301"), "{told}");
}

/// Sends a TCP segment of no connection known to this host, by a raw socket.
fn send_open_segment(source: Ipv4Addr, to: IpAddr, port: u16) {
    let packet = TestPacket::tcp((source.into(), 40_000), (to, port), ACK);
    send_raw(&packet.ip(), to);
}

/// Sends an IPv4 packet unchanged.
fn send_raw(bytes: &[u8], to: IpAddr) {
    let IpAddr::V4(to) = to else { panic!("IPv6") };
    // SAFETY: plain system calls on a descriptor of our own, with memory that outlives them.
    let sent = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
        assert!(socket >= 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_ne_bytes(to.octets());
        let sent = libc::sendto(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        );
        libc::close(socket);
        sent
    };
    assert_eq!(sent, bytes.len() as isize);
}

/// Starts the daemon again, with its log written to a file.
fn restart_with_log(fleet: &mut Fleet, log: &Path) -> Process {
    fleet.kill_daemon();
    let mut daemon = Command::new(binary("steer").unwrap());
    daemon
        .args(["run", "--config"])
        .arg(fleet.config_path())
        .stderr(File::create(log).unwrap());
    let spawned = fleet.site.node.enter(|| Process::spawn(&mut daemon));
    let level = ["tune", "get", "log.data_path"];
    wait(LIMIT, "the daemon answers", || {
        Ok(fleet.cli(&level).is_ok())
    })
    .unwrap();
    spawned.unwrap().unwrap()
}

#[test]
fn malformed_packets_are_logged_once_a_second_until_that_is_switched_off() {
    const SECOND: Duration = Duration::from_millis(1_100);
    const SOON: Duration = Duration::from_millis(300);
    let mut fleet = fleet("nat");
    let log = fleet.path("daemon.log");
    let _daemon = restart_with_log(&mut fleet, &log);
    let usual = program(&fleet);
    let vip = fleet.vip();
    let records = || -> Vec<String> {
        let text = fs::read_to_string(&log).unwrap();
        let lines = text.lines().filter(|line| line.contains("packet dropped"));
        lines.map(str::to_owned).collect()
    };
    // A TCP header that ends after half of it.
    let bytes = TestPacket::tcp((fleet.site.client_v4().into(), 40_000), (vip, HTTP), ACK).ip();
    let send = || {
        let sent = fleet.site.client.enter(|| {
            for _ in 0..20 {
                send_raw(&bytes[..30], vip);
            }
        });
        sent.unwrap();
        thread::sleep(SOON);
    };
    send();
    assert!(records().is_empty(), "{:?}", records());

    let level = |level: &str| fleet.cli(&["tune", "set", "log.data_path", level]);
    let wrong = format!("{:#}", level("loud").unwrap_err());
    assert!(wrong.contains("off, error, warn, info, debug"), "{wrong}");
    assert_eq!(level("info").unwrap(), "log.data_path = info\n");
    wait(LIMIT, "the copy is attached", || {
        Ok(program(&fleet) != usual)
    })
    .unwrap();
    send();
    let first = records();
    assert_eq!(first.len(), 1, "{first:?}");
    let expected = ["INFO", "malformed", "10.77.0.2:40000", NODE_CLIENT_PORT];
    for part in expected
        .map(str::to_owned)
        .into_iter()
        .chain([format!("{vip}:{HTTP}")])
    {
        assert!(first[0].contains(&part), "{part}: {first:?}");
    }
    thread::sleep(SECOND);
    send();
    assert_eq!(records().len(), 2, "{:?}", records());
    ask(&fleet);

    // Levels below that of the record.
    level("warn").unwrap();
    thread::sleep(SECOND);
    wait(LIMIT, "the copy is attached", || {
        Ok(program(&fleet) != usual)
    })
    .unwrap();
    send();
    assert_eq!(records().len(), 2, "{:?}", records());

    // A trace has the copy to itself, and gives it back.
    level("info").unwrap();
    let traced = trace(&fleet, &["--json"]);
    drop(traced);
    ended(&fleet);
    wait(LIMIT, "the copy is attached", || {
        Ok(program(&fleet) != usual)
    })
    .unwrap();
    thread::sleep(SECOND);
    send();
    assert_eq!(records().len(), 3, "{:?}", records());

    level("off").unwrap();
    wait(LIMIT, "the usual program is attached", || {
        Ok(program(&fleet) == usual)
    })
    .unwrap();
    thread::sleep(SECOND);
    send();
    assert_eq!(records().len(), 3, "{:?}", records());
    ask(&fleet);
}

#[test]
fn tshark_reads_the_capture_and_its_comments() {
    let fleet = fleet("nat");
    let file = fleet.path("trace.pcapng").display().to_string();
    let port = HTTP.to_string();
    let mut traced = trace(
        &fleet,
        &["--pcapng", &file, "--port", &port, "--count", "6"],
    );
    ask(&fleet);
    assert_eq!(traced.read_line().unwrap(), None);
    let read = |fields: &[&str]| {
        let mut command = Command::new("tshark");
        command.args(["-r", &file, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command
            .output()
            .expect("tshark is missing; `cargo xtask setup` installs it");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let text = read(&[
        "frame.interface_name",
        "ip.dst",
        "tcp.dstport",
        "frame.comment",
    ]);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(
        lines.len(),
        12,
        "each packet as it came and as it left: {text}"
    );
    let vip = fleet.vip().to_string();
    assert_eq!(lines[0][..3], ["client", vip.as_str(), &port], "{text}");
    assert!(lines[0][3].starts_with("sent to "), "{text}");
    assert!(lines[0][3].contains(", service chat, new flow"), "{text}");
    assert!(lines[0][3].ends_with(", in the nat table"), "{text}");
    assert!(lines[1][0].starts_with("backend"), "{text}");
    assert!(lines[1][1].starts_with("10.77."), "{text}");
    assert!(lines[1][3].contains("what was sent in place"), "{text}");
    // Lengths and times are those of the packets.
    let text = read(&["frame.len", "frame.cap_len", "frame.time_epoch"]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    for line in text.lines() {
        let fields: Vec<f64> = line
            .split('\t')
            .map(|field| field.parse().unwrap())
            .collect();
        assert!(fields[0] >= fields[1] && fields[1] <= 128.0, "{line}");
        assert!((now.as_secs_f64() - fields[2]).abs() < 60.0, "{line}");
    }
}

/// Checks that a reader that stops reading does not block the daemon: the loop continues, and
/// events without room in the ring are counted.
#[test]
fn a_reader_that_does_not_read_stops_nothing_and_is_told_what_it_lost() {
    let fleet = fleet("nat");
    let mut traced = trace(&fleet, &["--json"]);
    traced.signal(libc::SIGSTOP);
    let stop = AtomicBool::new(false);
    let memory = |fleet: &Fleet| -> u64 {
        let path = format!("/proc/{}/status", fleet.daemon_pid().unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("RssAnon:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory(&fleet);
    thread::scope(|scope| {
        scope.spawn(|| {
            fleet.site.client.enter(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                // To no service: it is passed, and reported.
                let to = SocketAddr::new(fleet.vip(), 9);
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        drop(socket.send_to(&[0; 16], to));
                    }
                }
            })
        });
        let end = Instant::now() + Duration::from_secs(1);
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let begun = Instant::now();
            fleet.status().unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    });
    let after = memory(&fleet);
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
    traced.signal(libc::SIGCONT);
    // The reader learns how many it has missed, unless it was so slow that the daemon has
    // disconnected it.
    while let Some(line) = traced.read_line().unwrap() {
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["lost"].as_u64().is_some_and(|lost| lost > 0) {
            break;
        }
    }
    drop(traced);
    ended(&fleet);
}

#[test]
fn a_daemon_that_is_killed_while_tracing_leaves_no_trace_once_it_is_back() {
    let mut fleet = fleet("nat");
    let mut traced = trace(&fleet, &["--json"]);
    let tracing = program(&fleet);
    fleet.kill_daemon();
    // Packets continue, through the tracing programs.
    ask(&fleet);
    assert_eq!(program(&fleet), tracing);
    traced.kill();
    fleet.start().unwrap();
    assert_ne!(program(&fleet), tracing);
    ask(&fleet);
    assert!(fleet.status().unwrap()["traced_by"].is_null());
    let folder = Pins::new(fleet.bpffs()).map("CONFIG");
    let names = std::fs::read_dir(folder.parent().unwrap())
        .unwrap()
        .flatten();
    let arrays = names.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("PROGRAMS")
    });
    assert_eq!(arrays.count(), 1);
}

/// Checks that the copy has only those maps for itself that no other program needs.
#[test]
fn the_copy_shares_all_maps_that_have_to_be_shared() {
    let bpffs = Bpffs::mount().unwrap();
    let options = OpenOptions {
        bpffs: Some(bpffs.path().to_owned()),
        sizes: Sizes::of_each(1024),
    };
    let xdp = Xdp::open(&options).unwrap();
    let (mut attacher, _maps) = xdp.into_parts();
    let tracer = attacher.tracer().unwrap();
    let (programs, _events) = tracer.load(&TraceFilter::default()).unwrap();
    let expected = [
        // Constants, and the level of the log.
        ".rodata",
        "AYA_LOGS",
        "ICMP_BUDGET",
        "LOG_TIMES",
        "NAT_SCRATCH",
        "NEXT_UNASSURED",
        "PACKET",
        "SCRATCH",
        "TAIL_CALL_ARGUMENT",
    ];
    assert_eq!(programs.own_maps(), expected);
}
