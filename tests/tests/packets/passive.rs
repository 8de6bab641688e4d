//! Measurements of members from packets of mode `nat`.

use steer_common::abi::{BUCKETS, Measure, NatReverse, Signals, bucket, bucket_start};
use steer_core::dataplane::TrafficCounters as _;
use steer_dataplane::now_coarse_ns;
use steer_tests::packet::{ACK, ACKNOWLEDGMENT, FIN, RST, SEQUENCE, SYN, TestPacket};

use crate::{
    fixture::{Fixture, PORT, client, v4, v6, vip},
    lifetime::{ONLY_PORT, age, other, with_one_port},
    nat::{answer, back, forward, tcp, with_numbers},
};

const MEMBER: u16 = 5;
/// Unit of times, so long that the test's own duration is a small part of a bucket.
const S: u64 = 1_000_000_000;

/// Returns the middle of the bucket that contains a time, so that the test's own duration moves it
/// to no other.
fn middle(ns: u64) -> u64 {
    let found = bucket(ns);
    bucket_start(found).midpoint(bucket_start(found + 1))
}

/// Returns a request of this many bytes.
fn request(len: usize) -> TestPacket {
    TestPacket {
        payload: vec![7; len],
        ..tcp(true, ACK)
    }
}

/// Returns a part of an answer, of this many bytes.
fn part(len: usize) -> TestPacket {
    TestPacket {
        payload: vec![8; len],
        ..answer(&tcp(true, SYN), MEMBER, ONLY_PORT, ACK)
    }
}

struct Flow {
    fixture: Fixture,
    /// Expected number of samples in each bucket.
    expected: Vec<(Measure, u32)>,
}

impl Flow {
    fn new() -> Self {
        let mut fixture = with_one_port();
        fixture.configure(|config| config.burst_gap_us = 1_000_000);
        Self {
            fixture,
            expected: Vec::new(),
        }
    }

    fn open(&mut self) {
        forward(&mut self.fixture, &tcp(true, SYN), MEMBER);
        self.ago(|entry| entry.request_ns = now_coarse_ns() - middle(3 * S));
        let syn_ack = answer(&tcp(true, SYN), MEMBER, ONLY_PORT, SYN | ACK);
        back(&mut self.fixture, &syn_ack, &tcp(true, SYN));
        self.expect(Measure::Connect, 3 * S);
        // Sent once more.
        back(&mut self.fixture, &syn_ack, &tcp(true, SYN));
        forward(&mut self.fixture, &request(0), MEMBER);
    }

    /// Lets time pass, as the flow's entry sees it.
    fn ago(&mut self, change: impl Fn(&mut NatReverse)) {
        age(&mut self.fixture, &tcp(true, SYN), |_, reverse| {
            change(reverse)
        });
    }

    fn ask(&mut self, len: usize) {
        forward(&mut self.fixture, &request(len), MEMBER);
    }

    fn hear(&mut self, len: usize) {
        back(&mut self.fixture, &part(len), &request(0));
    }

    fn expect(&mut self, measure: Measure, ns: u64) {
        self.expected.push((measure, bucket(middle(ns))));
        self.check();
    }

    /// Compares with the measurements of kernel and host.
    fn check(&mut self) {
        let kernel = self.fixture.xdp.maps().latency(MEMBER).unwrap().unwrap();
        let host = self.fixture.host.measured.borrow()[&MEMBER];
        for measured in [&kernel, &host] {
            for measure in Measure::ALL {
                for bucket in 0..BUCKETS {
                    let wanted = self.expected.iter().filter(|e| **e == (measure, bucket));
                    let found = measured.0[measure as usize][bucket as usize];
                    assert_eq!(found as usize, wanted.count(), "{measure:?} {bucket}");
                }
            }
        }
    }

    fn signals(&mut self) -> Signals {
        let kernel = self.fixture.xdp.maps().signals(MEMBER);
        let host = self.fixture.host.signals.borrow();
        assert_eq!(kernel, host.get(&MEMBER).copied().unwrap_or_default());
        kernel
    }
}

#[test]
fn an_answer_is_measured_by_its_bursts() {
    let mut flow = Flow::new();
    flow.open();
    for _ in 0..2 {
        flow.ask(300);
        flow.ago(|entry| entry.request_ns = now_coarse_ns() - middle(80 * S));
        flow.hear(200);
        flow.expect(Measure::FirstByte, 80 * S);
        // More of the same burst, and too little for a part of an answer.
        flow.hear(200);
        flow.ago(|entry| entry.last_answer_ns = now_coarse_ns() - 40 * S);
        flow.hear(31);
        flow.ago(|entry| {
            entry.last_answer_ns = now_coarse_ns() - 40 * S;
            entry.request_ns = now_coarse_ns() - middle(200 * S);
        });
        flow.hear(32);
        flow.expect(Measure::SecondBurst, 200 * S);
        for gap in [30 * S, 3 * S, 90 * S] {
            flow.ago(|entry| entry.last_answer_ns = now_coarse_ns() - middle(gap));
            flow.hear(200);
            flow.expect(Measure::Gap, gap);
        }
    }
    flow.check();
}

#[test]
fn what_is_no_request_begins_no_measurement() {
    let mut flow = Flow::new();
    flow.open();
    // The backend speaks first; the client sends little; a segment is repeated while an answer is
    // awaited.
    flow.hear(200);
    flow.ask(95);
    flow.hear(200);
    flow.check();
    flow.ask(96);
    flow.ago(|entry| entry.request_ns = now_coarse_ns() - middle(50 * S));
    flow.ask(96);
    flow.ask(500);
    flow.hear(200);
    flow.expect(Measure::FirstByte, 50 * S);
    // Nothing is measured if disabled.
    flow.fixture.configure(|config| config.burst_gap_us = 0);
    flow.ask(300);
    flow.ago(|entry| entry.last_answer_ns = now_coarse_ns() - 50 * S);
    flow.hear(200);
    flow.check();
}

#[test]
fn resets_tell_of_a_backend_unless_the_client_was_done() {
    let mut flow = Flow::new();
    let mut expected = Signals::default();
    let end = |flow: &mut Flow, from_client: Option<u8>, from_backend: u8| {
        flow.expected.clear();
        forward(&mut flow.fixture, &tcp(true, SYN), MEMBER);
        let reply = |flags| answer(&tcp(true, SYN), MEMBER, ONLY_PORT, flags);
        if from_backend & ACK == 0 {
            back(&mut flow.fixture, &reply(SYN | ACK), &tcp(true, SYN));
            forward(&mut flow.fixture, &tcp(true, ACK), MEMBER);
        }
        if let Some(flags) = from_client {
            forward(&mut flow.fixture, &tcp(true, flags), MEMBER);
        }
        for _ in 0..2 {
            back(&mut flow.fixture, &reply(from_backend), &tcp(true, SYN));
        }
        let signals = flow.signals();
        // The next one starts over.
        age(&mut flow.fixture, &tcp(true, SYN), |forward, reverse| {
            forward.state |= steer_common::abi::nat_state::RESET;
            reverse.state |= steer_common::abi::nat_state::RESET;
        });
        signals
    };
    // In answer to the SYN: nobody listens.
    expected.refused = 1;
    assert_eq!(end(&mut flow, None, RST | ACK), expected);
    expected.accepted += 1;
    expected.resets = 1;
    assert_eq!(end(&mut flow, None, RST), expected);
    for flags in [FIN | ACK, RST] {
        expected.accepted += 1;
        assert_eq!(end(&mut flow, Some(flags), RST), expected);
    }
}

#[test]
fn a_flow_that_the_backend_ends_before_it_answers_is_counted_once() {
    for (asks, answers, is_idle, expected) in [
        (true, false, false, 1),
        (true, false, true, 1),
        // A client far away had no time to ask.
        (false, false, false, 1),
        // Nobody asked for long, or something was answered.
        (false, false, true, 0),
        (true, true, false, 0),
    ] {
        let mut flow = Flow::new();
        // Nothing of the handshake has a payload.
        let bare = |packet: TestPacket| TestPacket {
            payload: Vec::new(),
            ..packet
        };
        let syn = with_numbers(bare(tcp(true, SYN)), SEQUENCE - 1, 0);
        forward(&mut flow.fixture, &syn, MEMBER);
        let accepts = bare(answer(&tcp(true, SYN), MEMBER, ONLY_PORT, SYN | ACK));
        let accepts = with_numbers(accepts, ACKNOWLEDGMENT - 1, SEQUENCE);
        back(&mut flow.fixture, &accepts, &tcp(true, SYN));
        forward(&mut flow.fixture, &request(0), MEMBER);
        if is_idle {
            age(&mut flow.fixture, &tcp(true, SYN), |forward, _| {
                forward.opened_ticks = forward.opened_ticks.wrapping_sub(1100);
            });
        }
        if asks {
            // However little.
            flow.ask(1);
        }
        if answers {
            flow.hear(1);
        }
        let end = bare(answer(&tcp(true, SYN), MEMBER, ONLY_PORT, FIN | ACK));
        for _ in 0..2 {
            back(&mut flow.fixture, &end, &request(0));
        }
        let early = flow.signals().ended_early;
        assert_eq!(early, expected, "{asks} {answers} {is_idle}");
    }
}

#[test]
fn a_syn_that_is_repeated_tells_of_the_backend_that_did_not_answer() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_retry_ticks = 0);
    forward(&mut fixture, &tcp(true, SYN), 5);
    forward(&mut fixture, &tcp(true, SYN), 6);
    forward(&mut fixture, &other(tcp(true, SYN)), 5);
    for (id, unanswered) in [(5, 1), (6, 0)] {
        let kernel = fixture.xdp.maps().signals(id);
        let host = fixture.host.signals.borrow();
        assert_eq!(kernel, host.get(&id).copied().unwrap_or_default());
        assert_eq!(kernel.unanswered, unanswered, "member {id}");
    }
}

/// Returns flows, requests and answers of a member, read with one system call, after comparing
/// kernel and host.
fn traffic(fixture: &mut Fixture, member: u16) -> [u64; 3] {
    fixture.check_counters();
    let counted = fixture.xdp.maps().traffic(9).unwrap();
    let of = counted[usize::from(member)];
    let all = fixture.xdp.maps().counters().unwrap().members;
    assert_eq!(counted, all[..9], "the other way to read them");
    [of.flows, of.requests, of.answers]
}

#[test]
fn requests_and_what_comes_back_are_counted() {
    let mut flow = Flow::new();
    flow.open();
    // The test's SYN-ACKs have a payload.
    let [flows, requests, before] = traffic(&mut flow.fixture, MEMBER);
    assert_eq!((flows, requests), (1, 0));
    for turn in 1..=3 {
        flow.ask(300);
        flow.ask(300);
        flow.hear(0);
        assert_eq!(
            traffic(&mut flow.fixture, MEMBER),
            [1, turn, before + 2 * (turn - 1)]
        );
        flow.hear(1400);
        flow.hear(5);
        assert_eq!(
            traffic(&mut flow.fixture, MEMBER),
            [1, turn, before + 2 * turn]
        );
    }
}

#[test]
fn where_backends_answer_directly_clients_say_that_they_did() {
    for (is_v4, member) in [(true, 1), (false, 3)] {
        let mut fixture = Fixture::new();
        let address = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let mut send = |flags, payload| {
            let packet = TestPacket {
                payload: vec![7; payload],
                ..TestPacket::tcp(client(is_v4), (address, PORT), flags)
            };
            fixture.run(&packet.bytes());
            traffic(&mut fixture, member)
        };
        assert_eq!(send(SYN, 0), [1, 0, 0]);
        assert_eq!(send(ACK, 0), [1, 0, 1]);
        // A request, and the close of connections, do not count as answers.
        assert_eq!(send(ACK, 300), [1, 0, 1]);
        assert_eq!(send(ACK | FIN, 0), [1, 0, 1]);
        assert_eq!(send(ACK | RST, 0), [1, 0, 1]);
        assert_eq!(send(ACK, 0), [1, 0, 2]);
    }
}
