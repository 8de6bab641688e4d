//! Hashes of flows and of services.
//!
//! BPF has no wide multiplication, so both mix 64-bit words by multiplication and shift, like the
//! finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).

use crate::abi::{FlowKey, ServiceKey};

const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
const fn mix(state: u64, word: u64, factor: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(factor);
    product ^ (product >> 32)
}

/// Returns the hash of a flow.
#[inline(always)]
pub const fn flow(key: &FlowKey, seed: u64) -> u64 {
    let (source, destination) = (key.source.words(), key.destination.words());
    let ports =
        (key.source_port as u64) << 32 | (key.destination_port as u64) << 16 | key.protocol as u64;
    let mut state = mix(seed, source[1], K1);
    state = mix(state, destination[1], K2);
    if key.family == 6 {
        state = mix(state, source[0], K1);
        state = mix(state, destination[0], K2);
    }
    mix(mix(state, ports, K1), 0, K2)
}

/// Maps a hash to `0..len` by its upper half (Lemire, "Fast random integer generation in an
/// interval", 2019), which needs no division.
#[inline(always)]
pub const fn reduce(hash: u64, len: u32) -> u32 {
    (((hash >> 32) * len as u64) >> 32) as u32
}

/// Hash of a service key for hash and displace (Belazzougui, Botelho, Dietzfelbinger, "Hash,
/// displace, and compress", ESA 2009).
#[derive(Clone, Copy, Debug)]
pub struct ServiceHash {
    bucket: u32,
    base: u32,
    step: u32,
}

impl ServiceHash {
    /// Hashes a key.
    #[inline(always)]
    pub const fn of_service(key: &ServiceKey, seed: u64) -> Self {
        let [high, low] = key.address.words();
        let rest = (key.port as u64) << 16 | (key.protocol as u64) << 8 | key.family as u64;
        let mut state = mix(seed ^ rest.wrapping_mul(K2), low, K1);
        state = mix(state, high, K2);
        Self {
            bucket: (state >> 40) as u32,
            base: state as u32,
            step: (state >> 20) as u32 | 1,
        }
    }

    /// Returns the index of the displacement.
    #[inline(always)]
    pub const fn bucket(self, displacement_mask: u32) -> u32 {
        self.bucket & displacement_mask
    }

    /// Returns the index of the entry.
    #[inline(always)]
    pub const fn entry(self, displacement: u32, service_mask: u32) -> u32 {
        self.base.wrapping_add(displacement.wrapping_mul(self.step)) & service_mask
    }
}
