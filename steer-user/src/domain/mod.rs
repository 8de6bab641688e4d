//! What steer concludes from what it measured: pure code, with the clock passed in.

pub mod health;
pub mod maglev;
pub mod plan;
pub mod rings;
