//! Statics made of the rows of `steer_common::abi::maps`.

/// Type of a map by its kind.
macro_rules! map_type {
    (Array, $key:ty, $value:ty) => { aya_ebpf::maps::Array<$value> };
    (PerCpuArray, $key:ty, $value:ty) => { $crate::per_cpu::PerCpu<$value> };
    (Hash, $key:ty, $value:ty) => { aya_ebpf::maps::HashMap<$key, $value> };
    (LruHash, $key:ty, $value:ty) => { aya_ebpf::maps::LruHashMap<$key, $value> };
    (PerCpuHash, $key:ty, $value:ty) => { aya_ebpf::maps::PerCpuHashMap<$key, $value> };
    (LpmTrie, $key:ty, $value:ty) => { aya_ebpf::maps::LpmTrie<$key, $value> };
    (ProgramArray, $key:ty, $value:ty) => { aya_ebpf::maps::ProgramArray };
    (DevMapHash, $key:ty, $value:ty) => { aya_ebpf::maps::DevMapHash };
    (RingBuf, $key:ty, $value:ty) => { aya_ebpf::maps::RingBuf };
}

/// Definition of a map. Rings have a size in bytes instead of a number of entries.
macro_rules! map_definition {
    (RingBuf, $key:ty, $value:ty, $bytes:expr, $flags:expr) => {
        aya_ebpf::maps::RingBuf::with_byte_size($bytes, $flags)
    };
    ($kind:ident, $key:ty, $value:ty, $entries:expr, $flags:expr) => {
        <map_type!($kind, $key, $value)>::with_max_entries($entries, $flags)
    };
}

/// Statics of maps.
macro_rules! statics {
    ($($(#[$doc:meta])* $name:ident: $kind:ident<$key:ty, $value:ty>, $entries:expr, $flags:expr;)*) => {$(
        $(#[$doc])*
        #[aya_ebpf::macros::map]
        pub(crate) static $name: map_type!($kind, $key, $value) =
            map_definition!($kind, $key, $value, $entries, $flags);
    )*};
}
