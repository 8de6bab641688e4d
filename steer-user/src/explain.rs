//! What the data path does with a flow, and why, in words: the very code that runs in the kernel,
//! over a copy of its maps.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use steer_common::{
    abi::{FlowKey, Macs, MemberState, Mode, Slot},
    decide::decide,
    tables::Step,
    verdict::Verdict,
    wire::{Packet, Part},
};

use crate::dataplane::{Dataplane, HostTables, now_ms, now_ns};

/// Names that the data path does not know.
pub trait Names {
    /// The name of a member: its backend's.
    fn member(&self, id: u16) -> Option<String>;
    /// The name of a service or class.
    fn service(&self, id: u16) -> Option<String>;
    /// Why a client with this DSCP is in a class.
    fn class(&self, id: u16, client: IpAddr, dscp: u8) -> Option<String>;
}

/// A decision in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Explanation {
    /// What was looked at, in order.
    pub steps: Vec<String>,
    /// What happens to the packet.
    pub verdict: String,
}

/// Explains what would happen now to a packet of a flow with these TCP flags (0 for UDP) and this
/// DSCP. Nothing changes by it.
pub fn explain(
    dataplane: &dyn Dataplane,
    key: &FlowKey,
    tcp_flags: u8,
    dscp: u8,
    names: &dyn Names,
) -> Explanation {
    let tables = copy(dataplane, key);
    let packet = Packet {
        key: *key,
        macs: Macs::default(),
        interface: 0,
        frame_len: 64,
        network: 14,
        transport: 34,
        quoted: 0,
        tags: 0,
        ip_len: 40,
        headers: 40,
        ttl: 64,
        tos: dscp << 2,
        tcp_flags,
        part: Part::Packet,
        well_formed: true,
    };
    let verdict = decide(&packet, &tables);
    let words = Words {
        dataplane,
        names,
        client: key.source.to_ip(),
        dscp,
    };
    Explanation {
        steps: tables
            .steps()
            .into_iter()
            .map(|step| words.step(step))
            .collect(),
        verdict: words.verdict(&verdict),
    }
}

/// The tables with what they hold of this one flow.
fn copy(dataplane: &dyn Dataplane, key: &FlowKey) -> HostTables {
    let tables = HostTables::new(dataplane.snapshot());
    tables.now_ms.set(now_ms());
    tables.now_ns.set(now_ns());
    if let Some(entry) = dataplane.flow(key) {
        tables.flows.borrow_mut().insert(*key, entry);
    }
    if let Some(entry) = dataplane.nat_forward(key) {
        tables.forward.borrow_mut().insert(*key, entry);
    }
    if let Some(entry) = dataplane.nat_reverse(key) {
        tables.reverse.borrow_mut().insert(*key, entry);
    }
    tables
}

struct Words<'a> {
    dataplane: &'a dyn Dataplane,
    names: &'a dyn Names,
    client: IpAddr,
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
                let because = self.names.class(id, self.client, self.dscp);
                let because = because.unwrap_or_else(|| "the data path says so".to_owned());
                format!("the client is of class {name}: {because}")
            }
            Step::Slot(index, slot) => self.slot(index, slot),
            Step::Remembered(id) => {
                format!("the flow table knows the flow: {}", self.member(id))
            }
            Step::Picked(id) => format!("new flows of this slot go to {}", self.member(id)),
            Step::Owner(id) => {
                format!(
                    "the flow is open and not in the flow table: it belongs to the slot's owner, {}",
                    self.member(id)
                )
            }
            Step::Insert(id) => format!("the flow would be remembered for {}", self.member(id)),
            Step::Translated(id) => {
                format!("the nat table knows the flow: {}", self.member(id))
            }
            Step::Unusable(id) => format!("{} cannot take it", self.member(id)),
            Step::Outside(id) => format!(
                "{} is in a region that the service may not be served from",
                self.member(id)
            ),
            Step::Hot(id) => format!(
                "{} is hot, or has all the flows that it may have: others come first",
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
            Verdict::Pass => "passed to the kernel untouched: not for a service".to_owned(),
            Verdict::Drop(reason) => format!("dropped: {}", reason.name()),
            Verdict::Reset => "answered with a TCP reset".to_owned(),
            Verdict::Deliver(target) => format!(
                "sent to {} at {} {}",
                self.member(target.id),
                self.dataplane.member(target.id).address.to_ip(),
                match target.mode {
                    mode if mode == Mode::Gue as u8 => "inside IP and UDP headers",
                    mode if mode == Mode::L2 as u8 => "by its MAC address",
                    _ => "inside an IP header",
                }
            ),
            Verdict::Open(target) => format!(
                "sent to {} at {}, as the first packet of a flow with rewritten addresses",
                self.member(target.id),
                self.dataplane.member(target.id).address.to_ip()
            ),
            Verdict::Forward(target, ends) => format!(
                "sent to {} at {} port {}, from {} port {}",
                self.member(target.id),
                ends.destination.to_ip(),
                ends.destination_port,
                ends.source.to_ip(),
                ends.source_port
            ),
            Verdict::Return(member, ends, _) => format!(
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
