//! ELF objects of the programs, embedded by the build.

/// Returns the object with the XDP program and its maps.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"))
}

/// Returns the object with the decapsulation program.
pub fn decap_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.o"))
}

/// Returns the object with the programs of the benchmark.
pub fn bench_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"))
}

/// Returns the object with the tracing copy of the XDP program.
pub fn trace_object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/trace.o"))
}
