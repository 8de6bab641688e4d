//! Memory of maps: measured of those that are loaded, estimated of those to come.

mod estimated;
mod measured;

pub use self::estimated::TRIE_ENTRY;
pub use self::measured::MapMemory;
pub(super) use self::measured::MemoryMeters;
