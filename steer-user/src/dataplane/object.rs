//! The programs, as the build made them.

/// The ELF object with the XDP program and its maps.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"))
}

/// The ELF object with the program for backends without a tunnel device.
pub fn decap_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.o"))
}

/// The ELF object with the programs of the benchmark.
pub fn bench_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"))
}

/// The ELF object with the XDP program as it is while somebody traces.
pub fn trace_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/trace.o"))
}
