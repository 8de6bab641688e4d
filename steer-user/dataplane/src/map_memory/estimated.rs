//! Estimated memory of maps, computed like the kernel does (Linux 6.18, `map_mem_usage` of
//! `kernel/bpf/arraymap.c`, `hashtab.c`, `lpm_trie.c`, `devmap.c`), except for the map's own
//! header.

use aya::maps::MapType;

use super::super::specs::{MAPPED, NO_PREALLOC, Spec};

/// Approximate size of a map without entries: `struct bpf_array`, `struct bpf_htab`.
const HEAD: u64 = 512;
const PAGE: u64 = 4096;
/// Size of `struct htab_elem` without key and value.
const HASH_ELEMENT: u64 = 48;
/// Size of `struct bucket` of hash tables.
const BUCKET: u64 = 16;
const POINTER: u64 = 8;

impl Spec {
    /// Returns the bytes of a map with this number of entries, or with the default number.
    pub(crate) fn bytes(&self, entries: Option<u32>, cpus: u64) -> u64 {
        let entries = u64::from(entries.unwrap_or(self.entries));
        let [key, value] = [self.key, self.value].map(|size| u64::from(size).next_multiple_of(8));
        match self.kind {
            MapType::Array if self.flags & MAPPED != 0 => {
                PAGE + (entries * value).next_multiple_of(PAGE)
            }
            MapType::Array => HEAD + entries * value,
            MapType::ProgramArray => HEAD + entries * POINTER,
            MapType::PerCpuArray => HEAD + entries * (POINTER + value * cpus),
            // Entries of such maps, as of tries, count only once they exist.
            MapType::Hash if self.flags & NO_PREALLOC != 0 => {
                HEAD + entries.next_power_of_two() * BUCKET
            }
            MapType::Hash | MapType::LruHash => {
                let buckets = entries.next_power_of_two() * BUCKET;
                HEAD + buckets + entries * (HASH_ELEMENT + key + value)
            }
            // Memory that is not preallocated grows with the entries.
            MapType::PerCpuHash if self.flags & NO_PREALLOC != 0 => {
                HEAD + entries.next_power_of_two() * BUCKET
            }
            MapType::LruPerCpuHash | MapType::PerCpuHash => {
                let buckets = entries.next_power_of_two() * BUCKET;
                let element = HASH_ELEMENT + key + POINTER + value * cpus;
                HEAD + buckets + entries * element
            }
            // Interfaces count only once they are added.
            MapType::DevMapHash => HEAD + entries.next_power_of_two() * POINTER,
            // Tries grow with their entries.
            _ => HEAD,
        }
    }
}

/// Upper bound of the bytes per entry of a trie of addresses: `struct lpm_trie_node` with key and
/// value, and an intermediate node.
pub const TRIE_ENTRY: u64 = 2 * (40 + 16 + 8);
