//! What the tests of steer stand on: network namespaces, topologies of them, links with a real
//! delay, chat and echo servers and a load client.

pub mod netns;
pub mod process;
pub mod veth;
