//! A fleet of inference engines in simulated time, and the policies of other load balancers.
//!
//! Engines, distances, loss and clients are fields of structs, and the same seed gives the same run. Times are
//! [`Duration`](std::time::Duration)s since the start of a run.

mod day;
pub mod engine;
mod fleet;
mod outcome;
pub mod policy;
mod scenario;
pub mod series;
pub mod statistics;
pub mod workload;
mod world;

pub use self::day::day;
pub use self::fleet::{Report, Server, State, Symptom};
pub use self::outcome::Outcome;
pub use self::scenario::{Act, Scenario, all, large};
pub use self::world::run;
