//! Probes of backends, the beacon that answers them, the certificates between the two, and connection ids
//! for QUIC servers behind a node.
//!
//! Nothing here loads or reads BPF, so that this builds without its tools.

pub mod beacon;
pub mod pki;
pub mod probe;
pub mod quic;
pub mod regular_file;
