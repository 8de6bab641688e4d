//! Failures of backends and daemons under load, with their effects: when the daemon detected them,
//! when tables followed, when new flows were no longer affected, and how many requests failed.

mod death;
mod soak;
mod trial;

pub use self::death::Death;
pub use self::soak::{Growth, Soak, Soaked, Unexplained, soak};
pub use self::trial::{Site, Trial};
