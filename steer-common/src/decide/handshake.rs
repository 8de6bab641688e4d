//! Handshakes of QUIC in the flow table: packets of one handshake go to one member.

use super::quic_header::ConnectionHint;
use crate::{
    abi::{Config, FlowEntry, age},
    tables::Tables,
    wire::Packet,
};

/// Returns the member of the handshake to which an opening QUIC packet belongs; 0 if there is none.
/// The ClientHello may take several packets, and be repeated; the client's next ones have an id
/// chosen by the server, also in answer to a Retry. More ids are another connection's. `tracked`
/// tells whether to look in the flow table as well.
#[inline(always)]
pub(super) fn handshake_member<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    hint: ConnectionHint,
    tracked: bool,
) -> u16 {
    if let Some(mut entry) = tables.new_flow(&packet.key) {
        let is_over =
            age(tables.now_ticks(), entry.last_ticks) > config.nat_timeouts.unassured_ticks;
        let known = add_id(&mut entry.ids, hint.id);
        if is_over || known == IdAdded::No as u8 {
            return 0;
        }
        // If the write fails, the next packet tries again.
        if known == IdAdded::Now as u8 {
            tables.insert_new_flow(&packet.key, &entry);
        }
        return entry.member;
    }
    if !tracked {
        return 0;
    }
    let member = tables.with_flow(&packet.key, |entry| {
        if add_id(&mut entry.ids, hint.id) == IdAdded::No as u8 {
            0
        } else {
            entry.member
        }
    });
    member.unwrap_or(0)
}

/// Presence of a connection id in a handshake.
#[repr(u8)]
enum IdAdded {
    /// The handshake has other ids, as many as it may have.
    No = 0,
    /// The id was known before.
    Before = 1,
    /// The id was added now.
    Now = 2,
}

/// Adds a hash of a connection id to those of a handshake, if there is room: the id chosen by the
/// client, that of a Retry, and the server's. Returns an [`IdAdded`].
#[inline(always)]
fn add_id(ids: &mut [u8; 4], id: u8) -> u8 {
    let [first, second, third, _] = *ids;
    if first == id || second == id || third == id {
        return IdAdded::Before as u8;
    }
    if first == 0 {
        ids[0] = id;
    } else if second == 0 {
        ids[1] = id;
    } else if third == 0 {
        ids[2] = id;
    } else {
        return IdAdded::No as u8;
    }
    IdAdded::Now as u8
}

/// Inserts a handshake into the flow table. Returns false on failure.
#[inline(always)]
pub(super) fn insert_handshake<T: Tables>(
    packet: &Packet,
    tables: &T,
    slot: u32,
    member: u16,
    hint: ConnectionHint,
) -> bool {
    let entry = FlowEntry {
        last_ticks: tables.now_ticks(),
        slot,
        member,
        coarse_tick: 0,
        ids: [hint.id, 0, 0, 0],
    };
    tables.insert_new_flow(&packet.key, &entry)
}
