//! QUIC: connection ids that name the server, and new connections.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use steer_common::{
    abi::{CidKey, CidLayouts, Mode, service_flags},
    cid::Layout,
};
use steer_core::dataplane::SteeringTables as _;

use crate::{
    case::{Case, UDP},
    goal::Goal,
    scene::Scene,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 40);
/// Config rotation of the ids.
const ROTATION: u8 = 0;
const SERVER_ID: [u8; 4] = [0xdf, 0xe1, 0xf8, 0x0e];
const NONCE: usize = 7;

/// A short header, the id of a server, and encrypted data.
const OPEN: [u8; 14] = [
    0x41, 0x0b, 0xdf, 0xe1, 0xf8, 0x0e, 1, 2, 3, 4, 5, 6, 7, 0x5a,
];
/// An Initial of version 1 with a random id of eight bytes from the client.
const NEW: [u8; 14] = [
    0xc0, 0, 0, 0, 1, 8, 0xe7, 0xe7, 0xe7, 0xe7, 0xe7, 0xe7, 0xe7, 0xe7,
];

pub(crate) const CASES: [Case; 2] = [
    Case::open("ipip open, QUIC by its id", VIP)
        .grown(20)
        .datagram(&OPEN),
    Case::open("ipip new, QUIC", VIP).grown(20).datagram(&NEW),
];

pub(crate) const GOALS: [Goal; 2] = [
    Goal::each(
        "ipip open, QUIC by its id",
        &[(1.0, "ipip open"), (1.0, "bare LRU hit")],
    ),
    Goal::each(
        "ipip new, QUIC",
        // Its handshake is remembered, so that all packets of it find the same member.
        &[
            (1.4, "ipip open"),
            (1.0, "bare array look-up"),
            (1.0, "bare LRU hit"),
        ],
    ),
];

pub(crate) fn prepare(scene: &mut Scene<'_>) -> Result<()> {
    let table = scene.settled(Mode::Ipip, false);
    let owner = scene.last_settled().start;
    let layout = Layout::new(SERVER_ID.len(), NONCE);
    scene.config.cids = CidLayouts::default().with(ROTATION, layout);
    let service = scene.service(VIP.into(), table);
    service.key.protocol = UDP;
    service.flags |= service_flags::QUIC;
    let key = CidKey {
        server_id: u64::from(u32::from_be_bytes(SERVER_ID)),
        service: service.id,
        rotation: ROTATION,
        server_id_len: SERVER_ID.len() as u8,
        ..CidKey::default()
    };
    scene.maps.set_cids(&BTreeMap::from([(key, owner)]))
}
