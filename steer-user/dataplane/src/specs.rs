//! Specifications of the maps that outlive the daemon.

use anyhow::{Result, anyhow, bail};
use aya::maps::{MapInfo, MapType};
pub(super) use steer_common::abi::maps::{MAPPED, NO_PREALLOC};
// Types and constants in the rows.
use steer_common::abi::{
    maps::{self, PROGRAM_COUNT, READ_ONLY},
    *,
};

/// Specification of a map.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key: u32,
    pub(super) value: u32,
    /// Default number of entries, unless [`Sizes`](super::Sizes) overrides it.
    pub(super) entries: u32,
    pub(super) flags: u32,
    /// Fields of the key, after the prefix length of a trie.
    pub(super) key_fields: &'static [Field],
    /// Fields of the value.
    pub(super) value_fields: &'static [Field],
}

const fn map<K: Layout, V: Layout>(
    name: &'static str,
    kind: MapType,
    entries: u32,
    flags: u32,
) -> Spec {
    let (prefix, implied) = match kind {
        MapType::LpmTrie => (4, NO_PREALLOC),
        MapType::DevMapHash => (0, READ_ONLY),
        _ => (0, 0),
    };
    Spec {
        name,
        kind,
        key: prefix + size_of::<K>() as u32,
        value: size_of::<V>() as u32,
        entries,
        flags: flags | implied,
        key_fields: K::FIELDS,
        value_fields: V::FIELDS,
    }
}

macro_rules! specs {
    ($($(#[$doc:meta])* $name:ident: $kind:ident<$key:ty, $value:ty>, $entries:expr, $flags:expr;)*) => {
        /// The maps that outlive the daemon.
        pub(super) const SPECS: [Spec; [$(maps::$name),*].len()] =
            [$(map::<$key, $value>(maps::$name, MapType::$kind, $entries, $flags)),*];
    };
}

steer_common::pinned_maps!(specs);

impl Spec {
    /// Compares a map with its specification, except for the number of entries, which is an
    /// argument.
    ///
    /// # Errors
    ///
    /// Returns an error if it has another type or shape.
    pub(super) fn check(&self, info: &MapInfo, entries: u32) -> Result<()> {
        let found = (
            info.map_type().map_err(|error| anyhow!(error))?,
            info.key_size(),
            info.value_size(),
            info.max_entries(),
            info.map_flags(),
        );
        let wanted = (self.kind, self.key, self.value, entries, self.flags);
        if found != wanted {
            let name = self.name;
            bail!(
                "map {name} is {} and must be {}",
                shape(found),
                shape(wanted)
            );
        }
        Ok(())
    }
}

/// Returns type, sizes and flags of a map in words.
fn shape((kind, key, value, entries, flags): (MapType, u32, u32, u32, u32)) -> String {
    format!(
        "a {kind:?} with keys of {key} bytes, values of {value} bytes, {entries} entries and flags \
         {flags:#x}"
    )
}
