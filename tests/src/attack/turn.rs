//! An attack in progress: its targets, and its rate.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    site::{Attacker, Site},
    streams::Streams,
};
use crate::packet::{TestPacket, Transport};

/// End of a flow.
pub(super) type End = (Ipv4Addr, u16);

/// Maximum time by which an attack may be ahead of its rate.
const AHEAD: Duration = Duration::from_millis(3);

/// An attack in progress.
pub(super) struct AttackRun<'a> {
    /// Site under attack.
    pub(super) site: &'a Site,
    /// Connections of clients that must stay open.
    pub(super) streams: &'a Streams,
    /// Random number generator.
    pub(super) random: StdRng,
    end: Instant,
    every: Duration,
    due: Instant,
    sent: u64,
}

impl<'a> AttackRun<'a> {
    /// Starts an attack with a rate in packets per second.
    #[must_use]
    pub(super) fn start(
        site: &'a Site,
        streams: &'a Streams,
        seed: u64,
        rate: u32,
        length: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            site,
            streams,
            random: StdRng::seed_from_u64(seed),
            end: now + length,
            every: Duration::from_secs(1) / rate.max(1),
            due: now,
            sent: 0,
        }
    }

    /// Returns whether its time is up.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Returns the remaining time.
    #[must_use]
    pub(super) fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Returns the packets sent so far.
    #[must_use]
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts packets sent by other means.
    pub(super) const fn count(&mut self, packets: u64) {
        self.sent += packets;
    }

    /// Sends a frame when it is due, unless the attack is over by then.
    ///
    /// # Errors
    ///
    /// Returns an error if the attacker's interface is gone.
    pub(super) fn send(&mut self, from: &Attacker, frame: &[u8]) -> Result<()> {
        let now = Instant::now();
        if self.due > now + AHEAD {
            thread::sleep(self.due - now);
        }
        // Frames delayed by a busy machine are not sent in one burst later.
        self.due = self.due.max(now.checked_sub(AHEAD).unwrap_or(now)) + self.every;
        if !self.is_over() {
            from.send(frame)?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Sends a segment with a spoofed source.
    ///
    /// # Errors
    ///
    /// Returns an error if the attacker's interface is gone.
    pub(super) fn segment(
        &mut self,
        from: &Attacker,
        ends: [End; 2],
        flags: u8,
        numbers: [u32; 2],
    ) -> Result<()> {
        self.send(from, &segment(from, ends, flags, numbers).bytes())
    }

    /// Returns two random numbers, for sequence and acknowledgment.
    pub(super) fn numbers(&mut self) -> [u32; 2] {
        self.random.random()
    }

    /// Returns a nonexistent client in the clients' network.
    pub(super) fn spoofed(&mut self) -> End {
        let host = Ipv4Addr::new(10, 77, 0, self.random.random_range(100..200));
        (host, self.random.random_range(1024..65000))
    }

    /// Returns the flows of clients: the client's end and the service's.
    #[must_use]
    pub(super) fn victims(&self) -> Vec<[End; 2]> {
        let seen = self.streams.states();
        let ends = seen
            .iter()
            .filter_map(|one| match (one.local?, one.target) {
                (SocketAddr::V4(local), SocketAddr::V4(target)) => {
                    Some([(*local.ip(), local.port()), (*target.ip(), target.port())])
                }
                _ => None,
            });
        ends.collect()
    }
}

/// Returns a segment without payload and with a spoofed source, addressed to the node's MAC.
#[must_use]
pub(super) fn segment(
    from: &Attacker,
    [source, destination]: [End; 2],
    flags: u8,
    numbers: [u32; 2],
) -> TestPacket {
    let mut packet = TestPacket::tcp(
        (source.0.into(), source.1),
        (destination.0.into(), destination.1),
        flags,
    );
    packet.macs = [from.node, from.mac];
    packet.payload.clear();
    let Transport::Tcp {
        sequence,
        acknowledgment,
        options,
        ..
    } = &mut packet.transport
    else {
        return packet;
    };
    [*sequence, *acknowledgment] = numbers;
    options.clear();
    packet
}

/// Returns a datagram with a spoofed source, addressed to the node's MAC.
#[must_use]
pub(super) fn datagram(
    from: &Attacker,
    [source, destination]: [End; 2],
    payload: Vec<u8>,
) -> TestPacket {
    let mut packet = TestPacket::udp(
        (source.0.into(), source.1),
        (destination.0.into(), destination.1),
    );
    packet.macs = [from.node, from.mac];
    packet.payload = payload;
    packet
}
