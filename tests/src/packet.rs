//! Packets, built field by field. Checksums are computed here from scratch, so that tests compare
//! with values independent of the data path.

use std::net::IpAddr;

/// A frame with IP and TCP or UDP in it.
#[derive(Clone, Debug)]
pub struct TestPacket {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// VLAN tags from the outside: type and control information.
    pub tags: Vec<(u16, u16)>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Type of service or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: type, and content after the type of the next one.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv6 flow label.
    pub label: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Transport header.
    pub transport: Transport,
    /// Payload.
    pub payload: Vec<u8>,
    /// Number of bytes after the IP packet.
    pub padding: usize,
}

/// A transport header.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number.
        acknowledgment: u32,
        /// Flags.
        flags: u8,
        /// Window.
        window: u16,
        /// Options, a multiple of four bytes.
        options: Vec<u8>,
    },
    /// UDP.
    Udp {
        /// Whether there is a checksum.
        checksum: bool,
    },
}

/// TCP flag FIN.
pub const FIN: u8 = 1;
/// TCP flag SYN.
pub const SYN: u8 = 2;
/// TCP flag RST.
pub const RST: u8 = 4;
/// TCP flag ACK.
pub const ACK: u8 = 16;

/// Sequence number of segments after a SYN.
pub const SEQUENCE: u32 = 0x1122_3344;
/// Acknowledgment number of these segments.
pub const ACKNOWLEDGMENT: u32 = 0x5566_7788;
const PAYLOAD: &[u8] = b"some payload of odd length.";

/// MAC address of the client in tests.
pub const CLIENT_MAC: [u8; 6] = [2, 0xc, 1, 2, 3, 4];
/// MAC address of the node in tests.
pub const NODE_MAC: [u8; 6] = [2, 0xd, 5, 6, 7, 8];

impl TestPacket {
    /// Creates a TCP segment.
    pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        // A segment after a SYN has the next sequence number.
        let before = if flags & SYN == 0 {
            0
        } else {
            1 + PAYLOAD.len() as u32
        };
        let transport = Transport::Tcp {
            sequence: SEQUENCE - before,
            acknowledgment: if flags & ACK == 0 { 0 } else { ACKNOWLEDGMENT },
            flags,
            window: 0xfaf0,
            options: vec![2, 4, 5, 0xb4],
        };
        Self::new(source, destination, transport)
    }

    /// Creates a UDP datagram.
    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self::new(source, destination, Transport::Udp { checksum: true })
    }

    fn new(source: (IpAddr, u16), destination: (IpAddr, u16), transport: Transport) -> Self {
        Self {
            macs: [NODE_MAC, CLIENT_MAC],
            tags: Vec::new(),
            source: source.0,
            destination: destination.0,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            fragment: 0x4000,
            options: Vec::new(),
            extensions: Vec::new(),
            label: 0xabcde,
            source_port: source.1,
            destination_port: destination.1,
            transport,
            payload: PAYLOAD.to_vec(),
            padding: 0,
        }
    }

    /// Returns the frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = ethernet(self.macs, &self.tags, self.source.is_ipv4());
        frame.extend(self.ip());
        frame.extend(vec![0; self.padding]);
        frame
    }

    /// Returns the frames of the packet in fragments, of which each but the last carries `size`
    /// bytes, a multiple of 8. IPv6 extension headers are not supported.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let mut frames = Vec::new();
        for (index, piece) in transport.chunks(size).enumerate() {
            let offset = (index * size / 8) as u16;
            let more = (index + 1) * size < transport.len();
            let mut frame = ethernet(self.macs, &self.tags, self.source.is_ipv4());
            match (self.source, self.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => frame.extend(ipv4_header(
                    self.tos,
                    20 + self.options.len() + piece.len(),
                    (self.id, offset | if more { 0x2000 } else { 0 }),
                    (self.ttl, self.protocol()),
                    [source.octets(), destination.octets()],
                    &self.options,
                )),
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    frame.extend(ipv6_header(
                        (self.tos, self.label),
                        8 + piece.len(),
                        (44, self.ttl),
                        [source.octets(), destination.octets()],
                    ));
                    frame.extend([self.protocol(), 0]);
                    frame.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    frame.extend([0, 0]);
                    frame.extend(self.id.to_be_bytes());
                }
                _ => panic!("addresses of two families"),
            }
            frame.extend(piece);
            frames.push(frame);
        }
        frames
    }

    /// Returns the offset of the transport header in the frame.
    pub fn transport_at(&self) -> usize {
        let network = 14 + 4 * self.tags.len();
        if self.source.is_ipv4() {
            return network + 20 + self.options.len();
        }
        let extensions = self.extensions.iter().map(|(_, content)| 1 + content.len());
        network + 40 + extensions.sum::<usize>()
    }

    /// Returns the IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = ipv4_header(
                    self.tos,
                    20 + self.options.len() + transport.len(),
                    (self.id, self.fragment),
                    (self.ttl, self.protocol()),
                    [source.octets(), destination.octets()],
                    &self.options,
                );
                header.extend(transport);
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut chain = Vec::new();
                for (index, (_, content)) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(index + 1);
                    chain.push(next.map_or(self.protocol(), |next| next.0));
                    chain.extend(content);
                }
                let first = self.extensions.first().map_or(self.protocol(), |e| e.0);
                let mut header = ipv6_header(
                    (self.tos, self.label),
                    chain.len() + transport.len(),
                    (first, self.ttl),
                    [source.octets(), destination.octets()],
                );
                header.extend(chain);
                header.extend(transport);
                header
            }
            _ => panic!("addresses of two families"),
        }
    }

    const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        let at = match &self.transport {
            Transport::Tcp {
                sequence,
                acknowledgment,
                flags,
                window,
                options,
            } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.push(((20 + options.len() as u8) / 4) << 4);
                bytes.push(*flags);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                Some(16)
            }
            Transport::Udp { checksum } => {
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0; 2]);
                checksum.then_some(6)
            }
        };
        bytes.extend(&self.payload);
        if let Some(at) = at {
            let mut covered = Vec::new();
            match (self.source, self.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    covered.extend(source.octets());
                    covered.extend(destination.octets());
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    covered.extend(source.octets());
                    covered.extend(destination.octets());
                }
                _ => panic!("addresses of two families"),
            }
            covered.extend((bytes.len() as u32).to_be_bytes());
            covered.extend([0, 0, 0, self.protocol()]);
            covered.extend(&bytes);
            let mut sum = checksum(&covered);
            if sum == 0 && matches!(self.transport, Transport::Udp { .. }) {
                sum = 0xffff;
            }
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// Returns an ICMP or ICMPv6 message with its checksum: type and code, the next four bytes, and the
/// rest.
pub fn icmp([source, destination]: [IpAddr; 2], kind: [u8; 2], word: u32, rest: &[u8]) -> Vec<u8> {
    let mut message = kind.to_vec();
    message.extend([0, 0]);
    message.extend(word.to_be_bytes());
    message.extend(rest);
    let mut covered = Vec::new();
    if let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) {
        covered.extend(source.octets());
        covered.extend(destination.octets());
        covered.extend((message.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, 58]);
    }
    covered.extend(&message);
    let sum = checksum(&covered).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// Returns an IP packet with addresses, TTL, protocol and content. An IPv4 packet has the flag
/// "don't fragment", and 0 as identification.
pub fn ip_around(addresses: [IpAddr; 2], ttl: u8, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut packet = match addresses {
        [IpAddr::V4(source), IpAddr::V4(destination)] => ipv4_header(
            0,
            20 + content.len(),
            (0, 0x4000),
            (ttl, protocol),
            [source.octets(), destination.octets()],
            &[],
        ),
        [IpAddr::V6(source), IpAddr::V6(destination)] => ipv6_header(
            (0, 0),
            content.len(),
            (protocol, ttl),
            [source.octets(), destination.octets()],
        ),
        _ => panic!("addresses of two families"),
    };
    packet.extend(content);
    packet
}

/// Returns an Ethernet header with tags.
pub fn ethernet(macs: [[u8; 6]; 2], tags: &[(u16, u16)], v4: bool) -> Vec<u8> {
    let mut frame = macs.concat();
    for (kind, control) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    let ethertype: u16 = if v4 { 0x0800 } else { 0x86dd };
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// Returns an IPv4 header for a packet of `total` bytes.
pub fn ipv4_header(
    tos: u8,
    total: usize,
    (id, fragment): (u16, u16),
    (ttl, protocol): (u8, u8),
    addresses: [[u8; 4]; 2],
    options: &[u8],
) -> Vec<u8> {
    let mut header = vec![0x40 | (5 + options.len() as u8 / 4), tos];
    header.extend((total as u16).to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(fragment.to_be_bytes());
    header.extend([ttl, protocol, 0, 0]);
    header.extend(addresses.concat());
    header.extend(options);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

/// Returns an IPv6 header before `len` bytes.
pub fn ipv6_header(
    (class, label): (u8, u32),
    len: usize,
    (next, hops): (u8, u8),
    addresses: [[u8; 16]; 2],
) -> Vec<u8> {
    let mut header = (6_u32 << 28 | u32::from(class) << 20 | label)
        .to_be_bytes()
        .to_vec();
    header.extend((len as u16).to_be_bytes());
    header.extend([next, hops]);
    header.extend(addresses.concat());
    header
}

/// Returns the Internet checksum, computed in the simplest way.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
