//! Writer of captures for Wireshark and tshark (draft-ietf-opsawg-pcapng). Existing crates are
//! outdated, and only three kinds of blocks are needed.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

/// Option codes.
const END: u16 = 0;
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
/// Unit of times: 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Directions in the flags of a packet.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writer of a capture. Each packet is flushed.
pub(super) struct Pcapng<W> {
    out: W,
    interfaces: Vec<String>,
}

impl<W: Write> Pcapng<W> {
    /// Starts a capture.
    pub(super) fn start(out: W) -> io::Result<Self> {
        let mut section = Block::new(SECTION);
        section.put(&BYTE_ORDER.to_le_bytes());
        section.put(&[1, 0, 0, 0]);
        // The length of the section is unknown.
        section.put(&u64::MAX.to_le_bytes());
        let application = concat!("steer ", env!("CARGO_PKG_VERSION"));
        section.option(USER_APPLICATION, application.as_bytes());
        let mut capture = Self {
            out,
            interfaces: Vec::new(),
        };
        capture.write(section)?;
        Ok(capture)
    }

    /// Adds a packet: its first bytes, and its length.
    pub(super) fn packet(
        &mut self,
        interface: &str,
        time_ns: u64,
        (bytes, len): (&[u8], u32),
        comment: &str,
        outbound: bool,
    ) -> io::Result<()> {
        let number = self.interface(interface)?;
        let mut packet = Block::new(PACKET);
        packet.put(&number.to_le_bytes());
        packet.put(&((time_ns >> 32) as u32).to_le_bytes());
        packet.put(&(time_ns as u32).to_le_bytes());
        packet.put(&(bytes.len() as u32).to_le_bytes());
        packet.put(&len.max(bytes.len() as u32).to_le_bytes());
        packet.put(bytes);
        packet.pad();
        packet.option(COMMENT, comment.as_bytes());
        let direction = if outbound { OUTBOUND } else { INBOUND };
        packet.option(FLAGS, &direction.to_le_bytes());
        self.write(packet)
    }

    /// Returns the number of an interface, and describes the interface on first use.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.iter().position(|known| known == name) {
            return Ok(number as u32);
        }
        let mut interface = Block::new(INTERFACE);
        interface.put(&ETHERNET.to_le_bytes());
        interface.put(&[0; 2]);
        // No limit of lengths.
        interface.put(&[0; 4]);
        interface.option(INTERFACE_NAME, name.as_bytes());
        interface.option(TIME_RESOLUTION, &[NANOSECONDS]);
        self.write(interface)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }

    fn write(&mut self, block: Block) -> io::Result<()> {
        self.out.write_all(&block.finish())?;
        self.out.flush()
    }
}

/// A block: type, length, content, options, and the length again.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        Self(bytes)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.put(&code.to_le_bytes());
        self.put(&(value.len() as u16).to_le_bytes());
        self.put(value);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.put(&END.to_le_bytes());
        self.put(&[0; 2]);
        let len = (self.0.len() as u32 + 4).to_le_bytes();
        self.0[4..8].copy_from_slice(&len);
        self.put(&len);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the bytes block by block against the draft.
    #[test]
    fn a_capture_has_a_section_interfaces_and_packets() {
        let mut bytes = Vec::new();
        let mut capture = Pcapng::start(&mut bytes).unwrap();
        let time = 0x0102_0304_0506_0708;
        for (interface, outbound) in [("eth0", false), ("eth1", true), ("eth0", false)] {
            capture
                .packet(interface, time, (&[1, 2, 3], 60), "words", outbound)
                .unwrap();
        }
        let mut kinds = Vec::new();
        let mut rest = &bytes[..];
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut packets = Vec::new();
        while !rest.is_empty() {
            let len = word(rest, 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(rest, len - 4) as usize, len);
            kinds.push(word(rest, 0));
            if word(rest, 0) == PACKET {
                packets.push(&rest[..len]);
            }
            rest = &rest[len..];
        }
        assert_eq!(
            kinds,
            [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET]
        );
        let [first, second, third] = packets[..] else {
            panic!("{} packets", packets.len());
        };
        assert_eq!(first, third);
        assert_eq!([word(first, 8), word(second, 8)], [0, 1]);
        assert_eq!(
            [word(first, 12), word(first, 16)],
            [0x0102_0304, 0x0506_0708]
        );
        assert_eq!([word(first, 20), word(first, 24)], [3, 60]);
        assert_eq!(&first[28..32], [1, 2, 3, 0]);
        assert_eq!(
            &first[32..44],
            [1, 0, 5, 0, b'w', b'o', b'r', b'd', b's', 0, 0, 0]
        );
        assert_eq!(&first[44..52], [2, 0, 4, 0, 1, 0, 0, 0]);
        assert_eq!(second[48], 2);
    }
}
