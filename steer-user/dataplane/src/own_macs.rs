//! Hash table of the node's own MAC addresses, in which a packet looks at a single position.

use anyhow::{Result, bail};
use steer_common::abi::{MAX_NODE_MACS, Mac, mac_word, node_mac_index};

/// Upper bound of addresses: with more, seeds without collisions are rare.
const MAX_MACS: usize = 256;
/// Upper bound of seeds to try. With the maximum number of addresses, one in three thousand works.
const MAX_SEEDS: u64 = 200_000;

/// A table with its hash seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMacs {
    /// Seed of the hash.
    pub seed: u64,
    /// Addresses at their positions; 0 elsewhere.
    pub places: Vec<u64>,
}

impl OwnMacs {
    /// Builds the table of these addresses; duplicates are allowed.
    ///
    /// # Errors
    ///
    /// Returns an error if there are too many.
    pub fn new(macs: &[Mac]) -> Result<Self> {
        let mut words: Vec<u64> = macs.iter().map(|mac| mac_word(*mac)).collect();
        words.sort_unstable();
        words.dedup();
        if words.len() > MAX_MACS {
            bail!(
                "the interfaces have {} MAC addresses, and at most {MAX_MACS} can be told apart",
                words.len()
            );
        }
        for number in 1..=MAX_SEEDS {
            let seed = mixed(number) | 1;
            if let Some(places) = placed(&words, seed) {
                return Ok(Self { seed, places });
            }
        }
        bail!("no hash seed without collisions for the MAC addresses")
    }
}

/// Returns the addresses at their positions, unless two collide.
fn placed(words: &[u64], seed: u64) -> Option<Vec<u64>> {
    let mut places = vec![0; MAX_NODE_MACS as usize];
    for word in words {
        let place = &mut places[node_mac_index(*word, seed) as usize];
        if *place != 0 {
            return None;
        }
        *place = *word;
    }
    Some(places)
}

/// Returns a well-mixed number (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn macs(count: u32) -> Vec<Mac> {
        (0..count)
            .map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                [2, 0x77, a, b, c, d]
            })
            .collect()
    }

    #[test]
    fn each_address_is_found_at_its_place_and_no_other_one() {
        for count in [0, 1, 7, 64, 256] {
            let all = macs(count + 1000);
            let (own, others) = all.split_at(count as usize);
            let table = OwnMacs::new(own).unwrap();
            let is_own = |mac: &Mac| {
                let word = mac_word(*mac);
                table.places[node_mac_index(word, table.seed) as usize] == word
            };
            assert!(own.iter().all(is_own), "{count}");
            assert!(!others.iter().any(is_own), "{count}");
            assert!(!is_own(&[0xff; 6]) && !is_own(&[1, 0, 0x5e, 0, 0, 1]));
        }
    }

    #[test]
    fn devices_that_share_an_address_have_it_once() {
        let mac = [2, 0, 0, 0, 0, 1];
        let table = OwnMacs::new(&[mac; 300]).unwrap();
        assert_eq!(table.places.iter().filter(|word| **word != 0).count(), 1);
    }

    #[test]
    fn more_than_can_be_told_apart_are_refused() {
        let error = OwnMacs::new(&macs(257)).unwrap_err().to_string();
        assert!(error.contains("257"), "{error}");
    }
}
