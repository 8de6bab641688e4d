//! The decapsulation program: packets that it strips, drops and passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{TestRun as _, TestRunOptions, Xdp as Program},
};
use steer_common::{
    abi::{Address, maps},
    decap::{Decap, decap},
    frame::Buffer,
    verdict::DropReason,
};
use steer_dataplane::{decap_object, set_up_decap};
use steer_tests::packet::{ACK, TestPacket, ethernet, ipv4_header, ipv6_header};

use crate::fixture::{OUTER_V4, OUTER_V6, PORT, backend, client, hex, v4, v6, vip};

/// The program with its maps, and the settings of the host's build.
struct Stripper(Ebpf);

impl Stripper {
    fn new() -> Self {
        let mut ebpf = EbpfLoader::new().load(decap_object()).unwrap();
        let sources = [(OUTER_V4.into(), 32), (OUTER_V6.into(), 112)];
        set_up_decap(&mut ebpf, &sources, GUE_PORT).unwrap();
        program(&mut ebpf).load().unwrap();
        Self(ebpf)
    }

    /// Returns the number of decapsulated packets, and of dropped ones by reason.
    fn counts(&self) -> Vec<u64> {
        let map = self.0.map(maps::DECAP_COUNTS).unwrap();
        let counts: PerCpuArray<_, u64> = map.try_into().unwrap();
        (0..DropReason::COUNT)
            .map(|index| counts.get(&index, 0).unwrap().iter().sum())
            .collect()
    }

    /// Runs a frame through both builds, which must agree.
    fn run(&mut self, frame: &[u8]) -> (Decap, Vec<u8>) {
        let mut memory = frame.to_vec();
        let mut buffer = Buffer::new(&mut memory, 0);
        let host = decap(&mut buffer, GUE_PORT, is_node);
        let host_bytes = buffer.bytes().to_vec();

        let mut expected = self.counts();
        let (code, index) = match host {
            Decap::Other => (2, None),
            Decap::Done => (2, Some(0)),
            Decap::Drop(reason) => (1, Some(reason as usize)),
        };
        if let Some(index) = index {
            expected[index] += 1;
        }
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = program(&mut self.0).test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        assert_eq!(result.return_value, code, "{host:?}");
        assert_eq!(self.counts(), expected, "{host:?}");
        if !matches!(host, Decap::Drop(_)) {
            assert_eq!(hex(&out), hex(&host_bytes), "written differently");
        }
        (host, out)
    }

    fn expect_untouched(&mut self, frame: &[u8]) {
        let (done, out) = self.run(frame);
        assert_eq!(done, Decap::Other);
        assert_eq!(hex(&out), hex(frame));
    }
}

fn program(ebpf: &mut Ebpf) -> &mut Program {
    ebpf.program_mut("steer_decap").unwrap().try_into().unwrap()
}

const GUE_PORT: u16 = 6080;

/// Returns whether an address is a node's: an IPv4 address, or a prefix of 112 bits.
fn is_node(source: &Address) -> bool {
    match source.to_ip() {
        IpAddr::V4(source) => source == OUTER_V4,
        IpAddr::V6(source) => source.octets()[..14] == OUTER_V6.octets()[..14],
    }
}

/// A packet as it arrives through the tunnel.
#[derive(Clone)]
struct Tunnelled {
    inner: TestPacket,
    node: IpAddr,
    tos: u8,
    fragment: u16,
}

impl Tunnelled {
    fn new(inner_v4: bool, outer_v4: bool) -> Self {
        let address = if inner_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let node = if outer_v4 {
            OUTER_V4.into()
        } else {
            OUTER_V6.into()
        };
        Self {
            inner: TestPacket::tcp(client(inner_v4), (address, PORT), ACK),
            node,
            tos: 0,
            fragment: 0x4000,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let inner = self.inner.ip();
        let protocol = if self.inner.source.is_ipv4() { 4 } else { 41 };
        let mut frame = ethernet(self.inner.macs, &self.inner.tags, self.node.is_ipv4());
        match (self.node, backend(1), backend(3)) {
            (IpAddr::V4(node), IpAddr::V4(here), _) => frame.extend(ipv4_header(
                self.tos,
                20 + inner.len(),
                (7, self.fragment),
                (61, protocol),
                [node.octets(), here.octets()],
                &[],
            )),
            (IpAddr::V6(node), _, IpAddr::V6(here)) => frame.extend(ipv6_header(
                (self.tos, 0x98765),
                inner.len(),
                (protocol, 61),
                [node.octets(), here.octets()],
            )),
            other => panic!("{other:?}"),
        }
        frame.extend(inner);
        frame.extend(vec![0; self.inner.padding]);
        frame
    }

    /// Returns the offset of the inner header.
    fn inner_at(&self) -> usize {
        let outer = if self.node.is_ipv4() { 20 } else { 40 };
        14 + 4 * self.inner.tags.len() + outer
    }
}

fn shapes() -> Vec<Tunnelled> {
    let mut shapes = Vec::new();
    for (inner_v4, outer_v4) in [(true, true), (false, true), (true, false), (false, false)] {
        shapes.push(Tunnelled::new(inner_v4, outer_v4));
    }
    shapes
}

#[test]
fn the_outer_header_comes_off_and_tags_stay() {
    let mut stripper = Stripper::new();
    for mut packet in shapes() {
        for tags in [
            vec![],
            vec![(0x8100, 0x2064)],
            vec![(0x88a8, 100), (0x8100, 0xe0c8)],
        ] {
            packet.inner.tags = tags;
            packet.inner.padding = 5;
            let (done, out) = stripper.run(&packet.bytes());
            assert_eq!(done, Decap::Done);
            assert_eq!(hex(&out), hex(&packet.inner.bytes()));
        }
    }
}

#[test]
fn congestion_marks_join_as_rfc_6040_says() {
    // Rows by the inner field, columns by the outer one: Not-ECT, ECT(1), ECT(0), CE.
    let figure_4 = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    let mut stripper = Stripper::new();
    for mut packet in shapes() {
        for (inner, row) in (0_u8..).zip(figure_4) {
            for (outer, ecn) in (0_u8..).zip(row) {
                // The DSCPs differ, and the inner one stays.
                packet.inner.tos = 0xb8 | inner;
                packet.tos = 0x28 | outer;
                let (done, out) = stripper.run(&packet.bytes());
                let Some(ecn) = ecn else {
                    assert_eq!(done, Decap::Drop(DropReason::DecapEcn));
                    continue;
                };
                assert_eq!(done, Decap::Done);
                packet.inner.tos = 0xb8 | ecn;
                assert_eq!(hex(&out), hex(&packet.inner.bytes()), "{inner} {outer}");
            }
        }
    }
}

#[test]
fn what_no_node_encapsulated_is_left_alone() {
    let mut stripper = Stripper::new();
    for mut packet in shapes() {
        stripper.expect_untouched(&packet.inner.bytes());
        packet.node = match packet.node {
            IpAddr::V4(_) => Ipv4Addr::new(10, 98, 0, 2).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 1, 1).into(),
        };
        stripper.expect_untouched(&packet.bytes());
    }
    // An IPv4-mapped outer source in IPv6 is not the node's IPv4 address.
    let mut frame = Tunnelled::new(true, false).bytes();
    frame[22..38].copy_from_slice(&OUTER_V4.to_ipv6_mapped().octets());
    stripper.expect_untouched(&frame);
}

#[test]
fn fragments_options_and_other_protocols_outside_are_for_the_kernel() {
    let mut stripper = Stripper::new();
    for fragment in [0x2000, 0x0001, 0x3fff] {
        let packet = Tunnelled {
            fragment,
            ..Tunnelled::new(true, true)
        };
        stripper.expect_untouched(&packet.bytes());
    }
    for (at, value) in [(14, 0x46), (14, 0x55), (23, 17), (23, 47)] {
        let mut frame = Tunnelled::new(true, true).bytes();
        frame[at] = value;
        stripper.expect_untouched(&frame);
    }
    for first in [0x45, 0x50, 0x70] {
        let mut frame = Tunnelled::new(true, false).bytes();
        frame[14] = first;
        stripper.expect_untouched(&frame);
    }
    for next in [0, 43, 44, 60, 17] {
        let mut frame = Tunnelled::new(true, false).bytes();
        frame[20] = next;
        stripper.expect_untouched(&frame);
    }
}

#[test]
fn an_inner_header_that_is_cut_or_of_the_wrong_version_is_malformed() {
    let mut stripper = Stripper::new();
    let malformed = Decap::Drop(DropReason::Malformed);
    for packet in shapes() {
        let frame = packet.bytes();
        let inner_at = packet.inner_at();
        let header = if packet.inner.source.is_ipv4() {
            20
        } else {
            40
        };
        // The sender is known once the outer source is present.
        let source_end = 14 + if packet.node.is_ipv4() { 16 } else { 24 };
        for len in 14..source_end {
            stripper.expect_untouched(&frame[..len]);
        }
        for len in source_end..inner_at + header {
            assert_eq!(stripper.run(&frame[..len]).0, malformed, "{len}");
        }
        let (done, out) = stripper.run(&frame[..inner_at + header]);
        assert_eq!(done, Decap::Done);
        assert_eq!(out.len(), 14 + header);
        let mut frame = frame.clone();
        frame[inner_at] ^= 0x20;
        assert_eq!(stripper.run(&frame).0, malformed);
    }
}

/// Returns the headers between the outer IP header and the packet of mode `gue`.
fn gue_headers(variant: u8, v6_inside: bool, port: u16) -> Vec<u8> {
    let mut headers = [[0xc0, 1], port.to_be_bytes(), [0, 0], [0, 0]].concat();
    if variant == 0 {
        headers.extend([0, if v6_inside { 41 } else { 4 }, 0, 0]);
    }
    headers
}

/// Converts a packet of mode `ipip` to mode `gue`.
fn gue(packet: &Tunnelled, headers: &[u8]) -> Vec<u8> {
    let mut frame = packet.bytes();
    let at = packet.inner_at();
    frame.splice(at..at, headers.iter().copied());
    let network = at - if packet.node.is_ipv4() { 20 } else { 40 };
    frame[network + if packet.node.is_ipv4() { 9 } else { 6 }] = 17;
    frame
}

#[test]
fn headers_of_gue_come_off_in_both_variants() {
    let mut stripper = Stripper::new();
    for packet in shapes() {
        let v6_inside = packet.inner.source.is_ipv6();
        for variant in [0, 1] {
            let headers = gue_headers(variant, v6_inside, GUE_PORT);
            let (done, out) = stripper.run(&gue(&packet, &headers));
            assert_eq!(done, Decap::Done);
            assert_eq!(hex(&out), hex(&packet.inner.bytes()));
            stripper.expect_untouched(&gue(&packet, &gue_headers(variant, v6_inside, 6081)));
        }
        // Options, a control message, another protocol, flags, and a later variant.
        for (at, value) in [(8, 1), (8, 0x20), (9, 6), (10, 1), (8, 0x80)] {
            let mut headers = gue_headers(0, v6_inside, GUE_PORT);
            headers[at] = value;
            stripper.expect_untouched(&gue(&packet, &headers));
        }
    }
}
