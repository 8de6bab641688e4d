//! Test support for steer: network namespaces, topologies of them, links with a real delay, chat
//! and echo servers and a load client.

pub mod attack;
pub mod bpffs;
pub mod chaos;
pub mod chat;
pub mod delay;
pub mod echo;
pub mod engine;
pub mod fault;
pub mod fleet;
mod link;
pub mod load;
pub mod machine;
pub mod netns;
pub mod packet;
pub mod pass;
pub mod ping;
pub mod process;
pub mod programs;
pub mod quic;
pub mod segment;
pub mod sim;
pub mod steering;
pub mod summary;
pub mod tls;
pub mod tmpfs;
pub mod topology;
pub mod veth;
