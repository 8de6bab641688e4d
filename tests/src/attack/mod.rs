//! Attacks with packets that anyone can send, on a site under load: no client may notice, and no
//! backend may lose traffic.
//!
//! Attackers are in the clients' network, on the segment of a backend, and behind an interface of
//! their own. They know addresses and ports, but no sequence numbers. Everything happens in network
//! namespaces, with a few thousand packets per second at most.

mod floods;
mod half_open;
mod raw;
mod requests;
mod segments;
mod site;
mod streams;
mod turn;
mod verdicts;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

pub use self::{
    raw::Raw,
    streams::{ConnectionState, Connections, Streams},
    verdicts::{out_by_journal, out_by_status},
};
use self::{
    raw::{Segment, Sniffer},
    requests::Requests,
    site::{Attacker, ECHO, QUIC, Requirements, Site},
    turn::AttackRun,
    verdicts::Verdicts,
};
use crate::{
    fleet::binary,
    topology::{PORT, VIP_V4},
};

/// An attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Name.
    pub name: &'static str,
    /// Description of its packets.
    pub about: &'static str,
    rate: u32,
    requirements: Requirements,
    /// Whether nodes new to a beacon must be able to connect meanwhile.
    asks: bool,
    run: fn(&mut AttackRun<'_>) -> Result<()>,
}

impl Attack {
    const fn new(
        name: &'static str,
        about: &'static str,
        rate: u32,
        run: fn(&mut AttackRun<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            about,
            rate,
            requirements: Requirements {
                quic: false,
                few_ports: false,
            },
            asks: false,
            run,
        }
    }
}

/// Returns all attacks, after one that does nothing and shows that the site alone loses nothing.
#[must_use]
pub fn all() -> Vec<Attack> {
    let quic = Requirements {
        quic: true,
        ..Requirements::default()
    };
    let few_ports = Requirements {
        few_ports: true,
        ..Requirements::default()
    };
    vec![
        Attack::new(
            "nothing",
            "no packets: what the site does alone",
            1,
            nothing,
        ),
        Attack::new(
            "rst",
            "RST with a random sequence number, as clients and as backends, from everywhere",
            2000,
            segments::resets,
        ),
        Attack::new(
            "rst-syn",
            "RST and SYN in a neighbour's name",
            4000,
            segments::resets_and_syns,
        ),
        Attack::new(
            "syn-drain",
            "SYN in a neighbour's name while backends drain",
            2000,
            segments::syns_while_draining,
        ),
        Attack::new(
            "syn-open",
            "SYN and SYN-ACK on open flows, as clients and as backends",
            2000,
            segments::syns,
        ),
        Attack::new(
            "fin",
            "FIN with a random sequence number",
            2000,
            segments::fins,
        ),
        Attack::new(
            "ack",
            "ACK in a neighbour's name with the attacker's hardware address",
            2000,
            segments::acknowledgments,
        ),
        Attack::new(
            "unanswered",
            "300 SYNs with a wrong checksum, repeated each second",
            300,
            segments::unanswered,
        ),
        Attack::new(
            "refused",
            "SYN with a wrong checksum, then RST as the backend it went to",
            88,
            segments::refusals_of_broken_syns,
        ),
        Attack::new(
            "refused-good",
            "SYN as it should be, then the right RST as the backend it went to",
            88,
            segments::refusals_of_good_syns,
        ),
        Attack::new(
            "icmp",
            "ICMP unreachable and too big about flows of clients, of nat and of probes",
            1000,
            segments::icmp_errors,
        ),
        Attack::new(
            "other-macs",
            "RST, SYN and ACK in frames for other hosts, for all and for groups",
            3000,
            segments::frames_for_others,
        ),
        Attack::new(
            "martians",
            "sources that no host has: the VIP, loopback, broadcast, multicast, nobody",
            3000,
            segments::martians,
        ),
        Attack {
            requirements: few_ports,
            ..Attack::new(
                "udp-ports",
                "datagrams in many names, of which each takes a port of nat: 2,048 for each backend",
                5000,
                floods::ports,
            )
        },
        Attack::new(
            "fragments",
            "fragments of packets that are never whole",
            4000,
            floods::fragments,
        ),
        Attack {
            requirements: quic,
            ..Attack::new(
                "initials",
                "QUIC Initials with ids of nobody's making, to service and beacon",
                1500,
                floods::initials,
            )
        },
        Attack {
            asks: true,
            ..Attack::new(
                "half-open",
                "1,100 handshakes with a beacon that never end",
                1,
                half_open::handshakes,
            )
        },
        Attack {
            asks: true,
            ..Attack::new(
                "garbage",
                "datagrams that are no QUIC to a beacon, and to the node as the beacon",
                2000,
                floods::garbage,
            )
        },
    ]
}

fn nothing(turn: &mut AttackRun<'_>) -> Result<()> {
    thread::sleep(turn.remaining());
    Ok(())
}

/// Outcome of an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the attack.
    pub attack: &'static str,
    /// Packets sent.
    pub packets: u64,
    /// Open connections of clients.
    pub streams: usize,
    /// Broken connections with the reason.
    pub broken: Vec<String>,
    /// Ejected backends with the reason.
    pub ejected: Vec<String>,
    /// Requests of clients, each on a connection of its own.
    pub requests: usize,
    /// Failed requests.
    pub failed: usize,
    /// Number of failures by reason.
    pub reasons: BTreeMap<String, usize>,
    /// Bytes of others' connections that reached an attacker.
    pub diverted: u64,
}

impl Outcome {
    /// Returns the effects that the attack should not have had, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.broken.is_empty() {
            faults.push(format!(
                "{} of {} streams broken",
                self.broken.len(),
                self.streams
            ));
        }
        if !self.ejected.is_empty() {
            faults.push(format!("kept from new flows: {}", self.ejected.join(", ")));
        }
        if self.failed * 1000 > self.requests {
            faults.push(format!(
                "{} of {} requests failed",
                self.failed, self.requests
            ));
        }
        if self.diverted > 0 {
            faults.push(format!("{} bytes diverted", self.diverted));
        }
        faults
    }
}

/// Runs an attack for a time on a site of its own.
///
/// # Errors
///
/// Returns an error if the site cannot be created, or an attacker cannot send.
pub fn run(attack: &Attack, length: Duration, seed: u64) -> Result<Outcome> {
    let site = Site::start(attack.requirements)?;
    let client = &site.fleet.site.client;
    let connections = Site::connections();
    let streams = Streams::open(client, &connections)?;
    let mut requests = Requests::start(client, &Site::chats())?;
    requests.add_datagrams(client, SocketAddr::new(VIP_V4.into(), ECHO))?;
    if attack.requirements.quic {
        requests.add_quic(client, SocketAddr::new(VIP_V4.into(), QUIC))?;
    }
    if attack.asks {
        add_new_node(&mut requests, &site)?;
    }
    let verdicts = Verdicts::follow(&site.fleet)?;
    let (diverted, sniffers) = count_diverted(&site, &streams)?;
    let mut turn = AttackRun::start(&site, &streams, seed, attack.rate, length);
    (attack.run)(&mut turn).with_context(|| format!("attack {}", attack.name))?;
    let packets = turn.sent();
    let broken = streams.finish()?;
    let tally = requests.finish()?;
    drop(sniffers);
    let ejected = verdicts.finish()?;
    let mut reasons = BTreeMap::new();
    for reason in &tally.failed {
        *reasons.entry(reason.clone()).or_default() += 1;
    }
    ensure!(tally.requests > 0, "no request was made");
    Ok(Outcome {
        attack: attack.name,
        packets,
        streams: connections.iter().map(|c| c.streams + c.waiting).sum(),
        broken,
        ejected,
        requests: tally.requests,
        failed: tally.failed.len(),
        reasons,
        diverted: diverted.load(Relaxed),
    })
}

/// Counts the bytes of clients' connections that arrive at an attacker's hardware address.
fn count_diverted(site: &Site, streams: &Streams) -> Result<(Arc<AtomicU64>, Vec<Sniffer>)> {
    let diverted = Arc::<AtomicU64>::default();
    let victims: Vec<_> = streams.states();
    let is_theirs = move |segment: &Segment| {
        let ends = [segment.source, segment.destination]
            .map(|(address, port)| Some(SocketAddr::new(address.into(), port)));
        let theirs = |local, target| {
            victims
                .iter()
                .any(|v| v.local == local && Some(v.target) == target)
        };
        theirs(ends[0], ends[1]) || theirs(ends[1], ends[0])
    };
    let sniffers = [&site.neighbour, &site.insider, &site.outsider].map(|attacker: &Attacker| {
        let (own, diverted, is_theirs) = (attacker.mac, diverted.clone(), is_theirs.clone());
        Sniffer::start(&attacker.namespace, PORT, move |frame| {
            if let Some(segment) = Segment::read(frame)
                && segment.to == own
                && is_theirs(&segment)
            {
                diverted.fetch_add(segment.payload as u64, Relaxed);
            }
        })
    });
    Ok((diverted, sniffers.into_iter().collect::<Result<_>>()?))
}

/// Starts repeated probes of the first backend's beacon by a new node, with a certificate.
fn add_new_node(requests: &mut Requests, site: &Site) -> Result<()> {
    let (own, usual) = (site.fleet.path("new-node"), site.fleet.path("pki"));
    fs::create_dir(&own)?;
    for (from, to) in [
        ("ca.pem", "ca.pem"),
        ("edge.pem", "n1.pem"),
        ("edge.key", "n1.key"),
    ] {
        fs::copy(usual.join(from), own.join(to))?;
    }
    let program = binary("steer-ask")?;
    let (address, port) = site.beacon(0);
    let name = site.fleet.names()[0];
    requests.add_other(&site.fleet.site.node, move || {
        let output = Command::new(&program)
            .arg(SocketAddr::new(address.into(), port).to_string())
            .args([
                "--name",
                name,
                "--region",
                "home",
                "--seconds",
                "2",
                "--pki",
            ])
            .arg(&own)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            said.contains("up:"),
            "a new node's probe of a beacon: {}",
            said.trim()
        );
        Ok(())
    })
}
