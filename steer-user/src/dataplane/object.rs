//! The program, as the build made it.

/// The ELF object with the XDP program and its maps.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"))
}
