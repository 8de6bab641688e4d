//! A fleet in simulated time: servers, distances, loss and clients are fields of structs, and the
//! same seed gives the same run. The daemon's own controller and the kernel's own decision do the
//! steering.
//!
//! Times are [`Duration`](std::time::Duration)s since the start of a run.

mod day;
mod fleet;
mod outcome;
mod path;
pub mod policy;
mod scenario;
mod world;

pub use self::day::day;
pub use self::fleet::{Kind, Server, State, Symptom};
pub use self::outcome::Outcome;
pub use self::scenario::{Act, Scenario, all, large};
pub use self::world::run;
