//! Explanation of the data path's decision for a flow, in words: runs the same code as the kernel,
//! on a snapshot of its maps.

#![deny(clippy::wildcard_enum_match_arm)]

mod packet;

use serde::{Deserialize, Serialize};
use steer_common::{
    abi::{Config, FlowKey, Macs, MemberState, Mode, Service, Slot, service_flags},
    cid::Server,
    decide::{
        connection::QuicClassifier,
        decide,
        quic_header::{self, ConnectionHint},
    },
    frame::Buffer,
    tables::Step,
    verdict::Verdict,
    wire::{Packet, PacketKind},
};
use steer_core::{
    control::Names,
    dataplane::{Dataplane, SnapshotTables},
};
use steer_dataplane::{now_coarse_ns, now_ticks};

pub use self::packet::{PacketOutcome, PacketQuestion, explain_packet, fate};

/// A decision in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Explanation {
    /// Steps of the decision in order.
    pub steps: Vec<String>,
    /// Outcome for the packet.
    pub verdict: String,
    /// Frame that leaves, in hexadecimal digits, if a whole packet was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
}

/// The packet of a flow to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Flow.
    pub key: FlowKey,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// DSCP.
    pub dscp: u8,
    /// Relevant part of a UDP payload: the header from [`quic_header()`].
    pub payload: Vec<u8>,
}

/// Returns the header of a QUIC datagram with this destination connection id: one that opens a
/// connection, or one of an open connection.
#[must_use]
pub fn quic_header(open: bool, id: &[u8]) -> Vec<u8> {
    let mut header = if open {
        vec![0x40]
    } else {
        vec![0xc0, 0, 0, 0, 1, id.len() as u8]
    };
    header.extend(id);
    // Padding to a realistic length.
    header.extend([0; 32]);
    header
}

/// Explains the outcome for a packet at this time. Changes nothing.
pub fn explain(dataplane: &dyn Dataplane, question: &Question, names: &dyn Names) -> Explanation {
    const TRANSPORT: usize = 34;
    let key = &question.key;
    let tables = copy(dataplane, key);
    let mut bytes = vec![0; TRANSPORT + 4];
    bytes.extend((8 + question.payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(&question.payload);
    let packet = Packet {
        key: *key,
        macs: Macs::default(),
        interface: 0,
        frame_len: 64,
        network: 14,
        transport: TRANSPORT,
        quoted: 0,
        tags: 0,
        ip_len: 40,
        id: 0,
        headers: 40,
        ttl: 64,
        tos: question.dscp << 2,
        tcp_flags: question.tcp_flags,
        kind: PacketKind::Whole,
        well_formed: true,
    };
    let frame = Buffer::new(&mut bytes, 0);
    let header = Header {
        packet: &packet,
        frame,
        tables: &tables,
    };
    let verdict = decide(&packet, &tables, &header);
    let words = Words {
        dataplane,
        names,
        key,
        dscp: question.dscp,
    };
    Explanation {
        steps: tables
            .steps()
            .into_iter()
            .map(|step| words.step(step))
            .collect(),
        verdict: words.verdict(&verdict),
        sent: None,
    }
}

/// Returns a snapshot of the tables with the entries of this flow.
fn copy(dataplane: &dyn Dataplane, key: &FlowKey) -> SnapshotTables {
    let tables = SnapshotTables::new(dataplane.snapshot());
    tables.now_ms.set(now_ticks());
    tables.now_ns.set(now_coarse_ns());
    if let Some(entry) = dataplane.open_flow(key) {
        tables.flows.borrow_mut().insert(*key, entry);
    }
    if let Some(entry) = dataplane.new_flow(key) {
        tables.new_flows.borrow_mut().insert(*key, entry);
    }
    if let Some(entry) = dataplane.nat_forward(key) {
        tables.forward.borrow_mut().insert(*key, entry);
    }
    if let Some(entry) = dataplane.nat_reverse(key) {
        tables.reverse.borrow_mut().insert(*key, entry);
    }
    tables
}

/// QUIC header of the packet, if it is for a QUIC service.
struct Header<'a> {
    packet: &'a Packet,
    frame: Buffer<'a>,
    tables: &'a SnapshotTables,
}

impl QuicClassifier for Header<'_> {
    fn connection_hint(&self, config: &Config, service: &Service) -> ConnectionHint {
        if service.flags & service_flags::QUIC == 0 {
            return ConnectionHint::NONE;
        }
        let frame = &self.frame;
        let decrypted =
            quic_header::decrypted_member(self.packet, frame, self.tables, config, service);
        quic_header::read_connection_hint(
            self.packet,
            frame,
            self.tables,
            config,
            service,
            decrypted,
        )
    }
}

/// Formats a server as operators write it: rotation, and the bytes of its id.
fn hex(server: Server) -> String {
    let bytes = server.id.to_be_bytes();
    let id = bytes[bytes.len() - usize::from(server.len)..].iter();
    let id: String = id.map(|byte| format!("{byte:02x}")).collect();
    format!("{id} of rotation {}", server.rotation)
}

struct Words<'a> {
    dataplane: &'a dyn Dataplane,
    names: &'a dyn Names,
    key: &'a FlowKey,
    dscp: u8,
}

impl Words<'_> {
    fn member(&self, id: u16) -> String {
        if id == 0 {
            return "none".to_owned();
        }
        let member = self.dataplane.member(id);
        let name = self
            .names
            .member(id)
            .unwrap_or_else(|| member.address.to_ip().to_string());
        match MemberState::from_byte(member.state) {
            MemberState::Up => name,
            MemberState::Draining => format!("{name} (draining)"),
            MemberState::Down => format!("{name} (down)"),
            MemberState::Absent => format!("{name} (gone)"),
        }
    }

    fn step(&self, step: Step) -> String {
        match step {
            Step::Service(id) => {
                let name = self.names.service(id);
                let name = name.unwrap_or_else(|| format!("number {id}"));
                format!("the destination is service {name}")
            }
            Step::Class(id) => {
                let name = self.names.service(id);
                let name = name.unwrap_or_else(|| format!("number {id}"));
                let because = self.names.class(id, self.key.source.to_ip(), self.dscp);
                let because = because.unwrap_or_else(|| "the data path decided so".to_owned());
                format!("the client is of class {name}: {because}")
            }
            Step::Slot(index, slot) => self.slot(index, slot),
            Step::FlowTableHit(id) => {
                format!(
                    "the flow table has an entry for the flow: {}",
                    self.member(id)
                )
            }
            Step::Picked(id) => format!("new flows of this slot go to {}", self.member(id)),
            Step::Owner(id) => {
                format!(
                    "the flow is open and not in the flow table: it belongs to the slot's owner, {}",
                    self.member(id)
                )
            }
            Step::Insert(id) => format!("the flow would be inserted for {}", self.member(id)),
            Step::ServerId(server, 0) => format!(
                "the connection id names server {}, which the service does not have",
                hex(server)
            ),
            Step::ServerId(server, id) => format!(
                "the connection id names server {}: {}",
                hex(server),
                self.member(id)
            ),
            Step::NatHit(id) => {
                format!(
                    "the nat table has an entry for the flow: {}",
                    self.member(id)
                )
            }
            Step::Unavailable(id) => format!("{} cannot take it", self.member(id)),
            Step::OutsideRegion(id) => format!(
                "{} is in a region that may not serve the service",
                self.member(id)
            ),
            Step::Hot(id) => format!(
                "{} is hot, or has reached its limit of flows: others come first",
                self.member(id)
            ),
            Step::Retry(id) => {
                format!(
                    "{} left a SYN unanswered: another is tried",
                    self.member(id)
                )
            }
            Step::EndOfChain => "no backend takes new flows: the chain of pools ends".to_owned(),
        }
    }

    fn slot(&self, index: u32, slot: Slot) -> String {
        let mut text = format!(
            "the flow's slot is {index}: first {}, second {}, owner {}",
            self.member(slot.first),
            self.member(slot.second),
            self.member(slot.owner)
        );
        if slot.track != 0 {
            text.push_str("; some of its flows are in the flow table");
        }
        text
    }

    fn verdict(&self, verdict: &Verdict) -> String {
        match verdict {
            // The header was examined.
            Verdict::Quic | Verdict::QuicDecrypt => "left to the program for QUIC".to_owned(),
            Verdict::Pass => "passed to the kernel unchanged: not for a service".to_owned(),
            Verdict::Drop(reason) => format!("dropped: {}", reason.name()),
            Verdict::NatRevalidate => "left to the program that re-checks nat flows".to_owned(),
            // The checksums were examined.
            Verdict::NatTcp => "left to the program for checksums and sequence numbers".to_owned(),
            Verdict::Reset => "answered with a TCP reset".to_owned(),
            Verdict::Encap(target) => format!(
                "sent to {} at {} {}",
                self.member(target.id),
                self.dataplane.member(target.id).address.to_ip(),
                Mode::from_byte(target.mode).map_or("in an unknown mode", Mode::manner)
            ),
            Verdict::NatCreate(target) => format!(
                "sent to {} at {}, as the first packet of a flow with rewritten addresses",
                self.member(target.id),
                self.dataplane.member(target.id).address.to_ip()
            ),
            Verdict::NatQuic(target) => {
                let key = FlowKey {
                    member: target.id,
                    ..*self.key
                };
                match self.dataplane.nat_forward(&key) {
                    Some(entry) => format!(
                        "sent to {} at {} port {}, from {} port {}",
                        self.member(target.id),
                        entry.backend.to_ip(),
                        entry.backend_port,
                        entry.source.to_ip(),
                        entry.source_port
                    ),
                    None => self.verdict(&Verdict::NatCreate(*target)),
                }
            }
            Verdict::NatForward(target, ends) => format!(
                "sent to {} at {} port {}, from {} port {}",
                self.member(target.id),
                ends.destination.to_ip(),
                ends.destination_port,
                ends.source.to_ip(),
                ends.source_port
            ),
            Verdict::NatReply(member, ends, _) => format!(
                "sent back from {} to client {} port {}, from {} port {}",
                self.member(*member),
                ends.destination.to_ip(),
                ends.destination_port,
                ends.source.to_ip(),
                ends.source_port
            ),
        }
    }
}
