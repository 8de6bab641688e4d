//! Prober and beacon over loopback, with attackers between and beside them. Forged ICMP errors need
//! root.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::beacon_connection::BeaconConnection;
use super::schedule::Schedule;
use super::tests::{LOOPBACK, Lab, next, probe, settings, start};
use super::tls::VerifierFailure;
use super::*;
use crate::pki::{Identity, IdentityKind};

/// Number of source addresses of half-open handshakes, and handshakes from each: fewer than the
/// limit per address.
const SOURCES: u8 = 40;
const EACH: usize = 28;

/// Returns the length of the Initial packets at the start of a client's datagram (RFC 9000 section
/// 17.2.2).
fn initials(datagram: &[u8]) -> usize {
    let mut end = 0;
    while let Some(len) = initial(&datagram[end..]) {
        end += len;
    }
    end.min(datagram.len())
}

fn initial(packet: &[u8]) -> Option<usize> {
    if packet.first()? & 0xb0 != 0x80 {
        return None;
    }
    let mut at = 5;
    for _ in 0..2 {
        at += 1 + usize::from(*packet.get(at)?);
    }
    let token = varint(packet, &mut at)?;
    at += token;
    let length = varint(packet, &mut at)?;
    Some(at + length)
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let first = *bytes.get(*at)?;
    let len = 1 << (first >> 6);
    let value = bytes.get(*at..*at + len)?;
    *at += len;
    let rest = value[1..].iter();
    Some(rest.fold(usize::from(first & 0x3f), |v, b| v << 8 | usize::from(*b)))
}

/// Relays Initials of clients to a beacon from an address, and all of its answers, so that
/// handshakes stay half-open.
async fn relay(beacon: SocketAddr, source: Ipv4Addr) -> SocketAddr {
    let front = UdpSocket::bind(LOOPBACK).await.unwrap();
    let back = UdpSocket::bind((source, 0)).await.unwrap();
    back.connect(beacon).await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                received = front.recv_from(&mut up) => {
                    let (len, from) = received.unwrap();
                    client = Some(from);
                    let len = initials(&up[..len]);
                    if len > 0 {
                        back.send(&up[..len]).await.unwrap();
                    }
                }
                received = back.recv(&mut down) => {
                    if let (Ok(len), Some(client)) = (received, client) {
                        front.send_to(&down[..len], client).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

/// Connects to a beacon behind a relay: the client has finished its part, and the beacon waits for
/// it.
async fn half_open(
    lab: &Lab,
    endpoint: &quinn::Endpoint,
    relay: SocketAddr,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let beacon = Identity::new(IdentityKind::Beacon, "eu", "b1").unwrap();
    let idle = Duration::from_secs(120);
    let config = lab
        .tls("n1")
        .client(beacon, &VerifierFailure::default(), idle);
    let connecting = endpoint.connect_with(config.unwrap(), relay, "b1").unwrap();
    connecting.await
}

#[tokio::test]
async fn a_handshake_that_is_never_finished_is_ended() {
    let lab = Lab::new();
    let running = start(&lab.beacon("b1")).await;
    let relay = relay(running.address, Ipv4Addr::new(127, 0, 0, 2)).await;
    let endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    let begun = Instant::now();
    let connection = half_open(&lab, &endpoint, relay).await.unwrap();
    let closed = timeout(Duration::from_secs(60), connection.closed()).await;
    assert!(closed.is_ok(), "it is kept for as long as its client likes");
    assert!(begun.elapsed() > Duration::from_millis(2500));
}

#[tokio::test]
async fn a_node_gets_in_whoever_holds_handshakes_open() {
    let lab = Arc::new(Lab::new());
    let running = start(&lab.beacon("b1")).await;
    // A connection established before stays.
    let mut before = lab.probe(running.address);
    next(&mut before).await.unwrap();
    let endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    let mut tasks = Vec::new();
    for source in 1..=SOURCES {
        let relay = relay(running.address, Ipv4Addr::new(127, 0, 1, source)).await;
        let (lab, endpoint) = (Arc::clone(&lab), endpoint.clone());
        tasks.push(tokio::spawn(async move {
            let mut held = Vec::new();
            for _ in 0..EACH {
                held.push(half_open(&lab, &endpoint, relay).await);
            }
            held
        }));
    }
    let mut held = Vec::new();
    for task in tasks {
        held.extend(task.await.unwrap());
    }
    // The beacon may have ended some already.
    assert!(held.len() >= 1100, "{}", held.len());
    let mut node = lab.probe(running.address);
    assert!(next(&mut node).await.unwrap().handshake.is_some());
    for _ in 0..3 {
        assert_eq!(next(&mut before).await.unwrap().handshake, None);
    }
}

#[tokio::test]
async fn what_a_forged_address_is_sent_is_less_than_what_was_sent_in_its_name() {
    let lab = Lab::new();
    let running = start(&lab.beacon("b1")).await;
    // First packets of nodes, as an observer on the path sees them.
    let seen = UdpSocket::bind(LOOPBACK).await.unwrap();
    let short = ProbeSettings {
        timeout: Duration::from_millis(50),
        ..settings(lab.tls("n1"))
    };
    let mut nodes = probe(seen.local_addr().unwrap(), short);
    tokio::spawn(async move { while nodes.next().await.is_some() {} });
    let victim = UdpSocket::bind(LOOPBACK).await.unwrap();
    let (mut sent, mut received) = (0, 0);
    let mut datagram = [0; 2048];
    for _ in 0..8 {
        let len = seen.recv(&mut datagram).await.unwrap();
        sent += victim
            .send_to(&datagram[..len], running.address)
            .await
            .unwrap();
    }
    // Unacknowledged data is sent again, which this wait covers.
    while let Ok(len) = timeout(Duration::from_secs(4), victim.recv(&mut datagram)).await {
        received += len.unwrap();
    }
    let factor = f64::from(received as u32) / f64::from(sent as u32);
    println!("{received} bytes for {sent}: {factor:.3}");
    assert!(received > 0 && factor < 1.0, "{received} bytes for {sent}");
}

/// Opens a raw socket for ICMP.
fn raw() -> OwnedFd {
    // SAFETY: creates a descriptor, or fails.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) };
    assert!(
        fd >= 0,
        "{}; this test needs root",
        io::Error::last_os_error()
    );
    // SAFETY: the descriptor is new, and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Codes of ICMP "destination unreachable" (RFC 792).
const PROTOCOL: u8 = 2;
const PORT: u8 = 3;
const FRAGMENTATION: u8 = 4;

/// Forges an ICMP error in the host's name about a datagram of port `from` to port `to`. A "fragmentation
/// needed" asks for nearly the loopback's MTU: the system remembers it.
fn forge(raw: &OwnedFd, code: u8, from: u16, to: u16) {
    let loopback = Ipv4Addr::LOCALHOST.octets();
    let mtu = if code == FRAGMENTATION { 0xff } else { 0 };
    let mut message = vec![3, code, 0, 0, 0, 0, mtu, mtu];
    message.extend([
        0x45,
        0,
        0,
        48,
        0,
        1,
        0x40,
        0,
        64,
        libc::IPPROTO_UDP as u8,
        0,
        0,
    ]);
    message.extend(loopback);
    message.extend(loopback);
    message.extend(from.to_be_bytes());
    message.extend(to.to_be_bytes());
    message.extend([0, 28, 0, 0]);
    let words = message
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(loopback),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: pointers and lengths are those of the message and of the address.
    let sent = unsafe {
        libc::sendto(
            raw.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        )
    };
    assert_eq!(
        sent,
        message.len() as isize,
        "{}",
        io::Error::last_os_error()
    );
}

/// Returns the local ports of this machine's sockets connected to a loopback port.
fn connected_to(port: u16) -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let peer = format!("0100007F:{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let own = lines.filter_map(|columns: Vec<&str>| {
        let (local, remote) = (columns.get(1)?, columns.get(2)?);
        let port = local.rsplit(':').next()?;
        (*remote == peer).then(|| u16::from_str_radix(port, 16).unwrap())
    });
    own.collect()
}

#[tokio::test]
async fn a_forged_icmp_error_ends_no_connection() {
    let raw = raw();
    // The forged error arrives: a plain socket accepts it.
    let (plain, peer) = (
        UdpSocket::bind(LOOPBACK).await.unwrap(),
        UdpSocket::bind(LOOPBACK).await.unwrap(),
    );
    let [from, to] = [&plain, &peer].map(|socket| socket.local_addr().unwrap());
    plain.connect(to).await.unwrap();
    forge(&raw, PORT, from.port(), to.port());
    let refused = plain.recv(&mut [0; 8]).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    let lab = Lab::new();
    let running = start(&lab.beacon("b1")).await;
    let beacon = Identity::new(IdentityKind::Beacon, "eu", "b1").unwrap();
    let limit = Duration::from_secs(5);
    let settings = settings(lab.tls("n1"));
    let pace = Schedule::new(Arc::clone(&settings.budget), 2);
    let open = || {
        BeaconConnection::open(
            running.address,
            beacon.clone(),
            settings.tls.as_ref().unwrap(),
            limit,
            limit,
        )
    };
    let mut link = open().await.unwrap();
    let port = running.address.port();
    let own = connected_to(port);
    assert_eq!(own.len(), 1, "{own:?}");
    for code in [PORT, PROTOCOL, FRAGMENTATION] {
        let lost = link.lost_packets();
        let mut answered = 0;
        for _ in 0..200 {
            forge(&raw, code, own[0], port);
            match link.ping(limit, &pace).await {
                Ok(_) => answered += 1,
                // A busy machine is slow.
                Err(failure) => assert_eq!(failure, ProbeFailure::Timeout),
            }
        }
        assert!(answered > 150, "{answered} of 200: packets are kept back");
        let lost = link.lost_packets() - lost;
        assert!(lost < 50, "{lost} packets lost by errors of code {code}");
    }
    let raised = timeout(Duration::from_millis(100), async {
        while link.lost(true).await.is_none() {}
    });
    assert!(raised.await.is_err(), "the connection is lost");

    // A forged error does not delay a handshake either.
    let forging = tokio::spawn(async move {
        loop {
            for own in connected_to(port) {
                forge(&raw, PORT, own, port);
            }
            tokio::task::yield_now().await;
        }
    });
    open().await.unwrap();
    forging.abort();
}
