//! What the tests of steer stand on: network namespaces, topologies of them, links with a real

pub mod delay;
pub mod netns;
pub mod ping;
pub mod process;
pub mod topology;
pub mod veth;
