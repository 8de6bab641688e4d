//! Sinks that announce the readiness of the node. The service manager is the first.

use steer_core::control::Readiness;

/// State of the node, as the event loop announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// The state in one line.
    pub summary: String,
    /// Whether the node can be relied on.
    pub readiness: Readiness,
}

/// Sign of life of the event loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The program is attached, and the configuration is in the maps.
    Steering(NodeState),
    /// The loop went round.
    Alive(NodeState),
    /// The loop ends.
    Stopping,
}

/// A sink that announces the readiness of the node. The event loop calls it itself, so that it is silent when the loop
/// hangs: once the node steers, then at every [`TICK`](super::TICK), and at the end. It must not block.
pub trait ReadinessSink: Send {
    /// Announces a sign of life.
    fn announce(&mut self, pulse: &Pulse);
}
