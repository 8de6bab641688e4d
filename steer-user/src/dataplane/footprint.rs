//! Memory that the kernel takes for a map, as it counts it itself (Linux 6.18, `map_mem_usage` of
//! `kernel/bpf/arraymap.c`, `hashtab.c`, `lpm_trie.c`, `devmap.c`), but for the map's own head.

use aya::maps::MapType;

use super::specs::{MAPPED, NO_PREALLOC, Spec};

/// About what a map has besides entries: `struct bpf_array`, `struct bpf_htab`.
const HEAD: u64 = 512;
const PAGE: u64 = 4096;
/// `struct htab_elem` without key and value.
const HASH_ELEMENT: u64 = 48;
/// `struct bucket` of hash tables.
const BUCKET: u64 = 16;
const POINTER: u64 = 8;

impl Spec {
    /// Bytes that the map takes, with this many entries if they are not the usual.
    pub(super) fn bytes(&self, entries: Option<u32>, cpus: u64) -> u64 {
        let entries = u64::from(entries.unwrap_or(self.entries));
        let [key, value] = [self.key, self.value].map(|size| u64::from(size).next_multiple_of(8));
        match self.kind {
            MapType::Array if self.flags & MAPPED != 0 => {
                PAGE + (entries * value).next_multiple_of(PAGE)
            }
            MapType::Array => HEAD + entries * value,
            MapType::ProgramArray => HEAD + entries * POINTER,
            MapType::PerCpuArray => HEAD + entries * (POINTER + value * cpus),
            // Like those of tries, its entries are counted once they are in it.
            MapType::Hash if self.flags & NO_PREALLOC != 0 => {
                HEAD + entries.next_power_of_two() * BUCKET
            }
            MapType::Hash | MapType::LruHash => {
                let buckets = entries.next_power_of_two() * BUCKET;
                HEAD + buckets + entries * (HASH_ELEMENT + key + value)
            }
            // What is not allocated before it is used grows with what is in it.
            MapType::PerCpuHash if self.flags & NO_PREALLOC != 0 => {
                HEAD + entries.next_power_of_two() * BUCKET
            }
            MapType::LruPerCpuHash | MapType::PerCpuHash => {
                let buckets = entries.next_power_of_two() * BUCKET;
                let element = HASH_ELEMENT + key + POINTER + value * cpus;
                HEAD + buckets + entries * element
            }
            // Interfaces are counted once they are in it.
            MapType::DevMapHash => HEAD + entries.next_power_of_two() * POINTER,
            // Tries grow with what is in them.
            _ => HEAD,
        }
    }
}

/// Bytes that an entry of a trie of addresses takes: `struct lpm_trie_node` with key and value, and
/// a node between, at worst.
pub(crate) const TRIE_ENTRY: u64 = 2 * (40 + 16 + 8);
