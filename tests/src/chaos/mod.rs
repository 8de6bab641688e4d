//! Deaths of backends and daemons under load, and what came of each: when the daemon knew, when tables
//! followed, from when on no new flow had trouble, and how many requests failed.

mod death;
mod soak;
mod trial;

pub use self::death::Death;
pub use self::soak::{Growth, Soak, Soaked, Unexplained, soak};
pub use self::trial::{Site, Trial};
