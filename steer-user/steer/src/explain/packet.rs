//! Explanation of a whole packet of any kind: runs everything it goes through, on a snapshot of the
//! maps, up to the bytes that leave.

use std::collections::{HashMap, HashSet};

use steer_common::{
    Action,
    abi::{
        Admission, FlowEntry, FlowKey, FragmentEntry, FragmentKey, MemberCounters, NatForward,
        NatReverse, SourceKey,
    },
    frame::Buffer,
    process,
    tables::Step,
    verdict::DropReason,
    wire::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, parse},
};
use steer_core::{
    control::Names,
    dataplane::{Dataplane, SnapshotTables, TableMiss},
};
use steer_dataplane::{copy_local_addresses, now_coarse_ns, now_ticks};

use super::{Explanation, Words};
use crate::packet_words::{self, hex};

/// Headroom before a packet, as in drivers.
const HEADROOM: usize = 256;

/// A packet to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketQuestion {
    /// Frame, from its Ethernet header on.
    pub bytes: Vec<u8>,
    /// Index of the incoming interface.
    pub interface: u32,
}

/// Outcome for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketOutcome {
    /// XDP action.
    pub action: Action,
    /// Frame as it leaves, if it does.
    pub bytes: Vec<u8>,
    /// Reason for an answer sent to its sender instead.
    pub answered: Option<DropReason>,
    /// Steps of the decision.
    steps: Vec<Step>,
    /// Flow of the packet, as far as known.
    flow: Option<FlowKey>,
    /// Member that it goes to.
    member: Option<u16>,
    /// Member that it comes from.
    from: Option<u16>,
    gue_port: u16,
}

/// Flow-table entries relevant to a packet. They are found by running it: failed look-ups are
/// requested from the data path, until there are no new ones.
#[derive(Default)]
struct FetchedEntries {
    asked: HashSet<TableMiss>,
    flows: HashMap<FlowKey, FlowEntry>,
    new_flows: HashMap<FlowKey, FlowEntry>,
    forward: HashMap<FlowKey, NatForward>,
    reverse: HashMap<FlowKey, NatReverse>,
    fragments: HashMap<FragmentKey, FragmentEntry>,
    sources: HashMap<SourceKey, u64>,
    in_flight: HashMap<u16, i64>,
}

impl FetchedEntries {
    /// Fills fresh tables with the entries found so far.
    fn restart(&self, tables: &SnapshotTables, admission: &HashMap<u16, Admission>) {
        // Restores the slots it looked at.
        for step in tables.steps().into_iter().rev() {
            if let Step::Slot(index, slot) = step {
                tables.set_slot(index, slot);
            }
        }
        tables.clear_steps();
        tables.counters.borrow_mut().clear();
        tables.drops.borrow_mut().clear();
        tables.openings.borrow_mut().clear();
        tables.admission.replace(admission.clone());
        tables.flows.replace(self.flows.clone());
        tables.new_flows.replace(self.new_flows.clone());
        tables.forward.replace(self.forward.clone());
        tables.reverse.replace(self.reverse.clone());
        tables.fragments.replace(self.fragments.clone());
        tables.sources.replace(self.sources.clone());
        tables.in_flight.replace(self.in_flight.clone());
        tables.record_misses();
    }

    /// Requests entries for failed look-ups. Returns false if none of them exists.
    fn fetch_misses(&mut self, dataplane: &dyn Dataplane, missed: Vec<TableMiss>) -> bool {
        fn found<K: std::hash::Hash + Eq, V>(
            map: &mut HashMap<K, V>,
            key: K,
            value: Option<V>,
        ) -> bool {
            value.is_some_and(|value| map.insert(key, value).is_none())
        }
        let mut news = false;
        for missed in missed {
            if !self.asked.insert(missed) {
                continue;
            }
            news |= match missed {
                TableMiss::Flow(key) => found(&mut self.flows, key, dataplane.open_flow(&key)),
                TableMiss::NewFlow(key) => {
                    found(&mut self.new_flows, key, dataplane.new_flow(&key))
                }
                TableMiss::Forward(key) => {
                    found(&mut self.forward, key, dataplane.nat_forward(&key))
                }
                TableMiss::Reverse(key) => {
                    found(&mut self.reverse, key, dataplane.nat_reverse(&key))
                }
                TableMiss::Fragment(key) => {
                    found(&mut self.fragments, key, dataplane.fragment(&key))
                }
                TableMiss::Source(key) => found(&mut self.sources, key, dataplane.source(&key)),
                TableMiss::InFlight(id) => {
                    found(&mut self.in_flight, id, Some(dataplane.in_flight(id)))
                }
            };
        }
        news
    }
}

/// Returns the outcome for a packet at this time. Changes nothing.
pub fn fate(dataplane: &dyn Dataplane, question: &PacketQuestion) -> PacketOutcome {
    let tables = SnapshotTables::new(dataplane.snapshot());
    tables.now_ms.set(now_ticks());
    tables.now_ns.set(now_coarse_ns());
    tables.now_fine.set(now_coarse_ns());
    copy_local_addresses(&tables, question.interface);
    let admission = tables.admission.borrow().clone();
    let mut met = FetchedEntries::default();
    loop {
        met.restart(&tables, &admission);
        let mut memory = vec![0; HEADROOM];
        memory.extend(&question.bytes);
        let mut frame = Buffer::new(&mut memory, HEADROOM);
        let action = process(&mut frame, question.interface, &tables).action();
        // Each round knows at least one more entry, and a packet looks up a bounded number of them.
        if met.fetch_misses(dataplane, tables.misses()) {
            continue;
        }
        let is_sent = matches!(action, Action::Transmit(_));
        let answered: Option<DropReason> = tables.drops.borrow().keys().next().copied();
        let counters = tables.counters.borrow();
        let which = |counts: fn(&MemberCounters) -> u64| {
            let mut all = counters.iter();
            all.find(|(_, c)| counts(c) > 0).map(|(id, _)| *id)
        };
        return PacketOutcome {
            action,
            bytes: frame.bytes().to_vec(),
            answered: answered.filter(|_| is_sent),
            steps: tables.steps(),
            flow: tables.traced_flow(),
            member: which(|c| c.packets),
            from: which(|c| c.replies),
            gue_port: tables.snapshot().config.gue_port,
        };
    }
}

/// Explains the outcome for a packet at this time. Changes nothing.
pub fn explain_packet(
    dataplane: &dyn Dataplane,
    question: &PacketQuestion,
    names: &dyn Names,
) -> Explanation {
    let fate = fate(dataplane, question);
    let mut bytes = question.bytes.clone();
    let frame = Buffer::new(&mut bytes, 0);
    let own = parse(&frame, question.interface).map(|packet: Packet| packet.key);
    let key = fate.flow.or(own).unwrap_or_default();
    let words = Words {
        dataplane,
        names,
        key: &key,
        dscp: dscp(&question.bytes).unwrap_or(0),
    };
    let gue = Some(fate.gue_port);
    let mut steps = vec![format!(
        "the packet is {}",
        packet_words::frame(&question.bytes, gue)
    )];
    if own.is_none() && key.source_port != 0 {
        steps.push(format!(
            "it belongs to the flow {}",
            packet_words::flow(&key)
        ));
    }
    steps.extend(fate.steps.iter().map(|step| words.step(*step)));
    let sent = matches!(fate.action, Action::Transmit(_));
    Explanation {
        steps,
        verdict: verdict(&fate, &words, gue),
        sent: sent.then(|| hex(&fate.bytes)),
    }
}

fn verdict(fate: &PacketOutcome, words: &Words<'_>, gue: Option<u16>) -> String {
    let interface = match fate.action {
        Action::Pass => return "passed to the kernel unchanged".to_owned(),
        Action::Drop(DropReason::NoRoute) => {
            return "the kernel's routing is queried, because the daemon has not resolved the next \
                    hop; without a route it is dropped: no-route"
                .to_owned();
        }
        Action::Drop(reason) => return format!("dropped: {}", reason.name()),
        Action::Transmit(interface) => interface,
    };
    let by = words.names.interface(interface);
    let by = by.unwrap_or_else(|| format!("interface {interface}"));
    let to = match (fate.answered, fate.member, fate.from) {
        (Some(DropReason::Reset), ..) => "answered with a TCP reset".to_owned(),
        (Some(DropReason::TooBig), ..) => {
            "answered with an ICMP error: it exceeds the MTU of the path to its backend".to_owned()
        }
        (Some(DropReason::TtlExpired), ..) => {
            "answered with an ICMP error: its TTL expires here".to_owned()
        }
        (Some(reason), ..) => format!("answered: {}", reason.name()),
        (None, Some(member), _) => format!("sent to {}", words.member(member)),
        (None, None, Some(member)) => {
            format!("sent back from {} to its client", words.member(member))
        }
        (None, None, None) => "sent to the other end of its flow".to_owned(),
    };
    let leaves = packet_words::frame(&fate.bytes, gue);
    format!("{to} by {by}, as {leaves}")
}

/// Returns the DSCP of an IP packet.
fn dscp(bytes: &[u8]) -> Option<u8> {
    let mut copy = bytes.to_vec();
    let (ethertype, at) = wire::ethertype(&Buffer::new(&mut copy, 0))?;
    let [first, second] = *bytes.get(at..at + 2)? else {
        return None;
    };
    match ethertype {
        ETHERTYPE_IPV4 => Some(second >> 2),
        ETHERTYPE_IPV6 => Some((first << 4 | second >> 4) >> 2),
        _ => None,
    }
}
