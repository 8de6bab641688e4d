//! Conclusions from measurements: pure code that gets the time as an argument.

pub mod balance;
pub mod confirmation;
pub mod evidence;
pub mod first_bursts;
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
pub mod succession;
