//! Minimal programs for comparison.

use std::net::Ipv4Addr;

use anyhow::Result;
use aya::maps::{
    HashMap, MapData,
    lpm_trie::{Key, LpmTrie},
};
use steer_common::abi::{Address, FlowEntry, FlowKey};

use crate::case::{Case, Program, key};

const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

pub(crate) const CASES: [Case; 7] = [
    Case::open("baseline", DESTINATION)
        .by(Program::Null)
        .passed(),
    Case::open("bare MAC swap", DESTINATION).by(Program::Swap),
    Case::open("bare IPIP encap", DESTINATION)
        .by(Program::Encap)
        .grown(20),
    Case::open("bare array look-up", DESTINATION).by(Program::Array),
    Case::open("bare LPM look-up", DESTINATION).by(Program::Lpm),
    Case::open("bare LRU hit", DESTINATION).by(Program::Lru),
    Case {
        unique: true,
        ..Case::open("bare LRU insert", DESTINATION).by(Program::LruInsert)
    },
];

/// Inserts the flows for the bare look-up.
pub(crate) fn fill_lru(lru: &mut HashMap<MapData, FlowKey, FlowEntry>, flows: u32) -> Result<()> {
    for flow in 0..flows {
        lru.insert(key(DESTINATION, flow), FlowEntry::default(), 0)?;
    }
    Ok(())
}

/// Inserts unrelated prefixes, and one that contains the packets.
pub(crate) fn fill_lpm(trie: &mut LpmTrie<MapData, Address, u32>) -> Result<()> {
    for net in 0..=255 {
        let address = Ipv4Addr::new(172, 16, net, 0);
        trie.insert(&Key::new(96 + 24, address.into()), 1, 0)?;
    }
    trie.insert(&Key::new(96 + 16, Ipv4Addr::new(10, 7, 0, 0).into()), 1, 0)?;
    Ok(())
}
