//! What steer concludes from what it measured: pure code, with the clock passed in.

pub mod balance;
pub mod confirmation;
pub mod evidence;
pub mod flap;
pub mod health;
pub mod latency;
pub mod load;
pub mod loss;
pub mod maglev;
pub mod outliers;
pub mod passive;
pub mod pressure;
pub mod rings;
pub mod rules;
pub mod silence;
