//! Admission: flows in flight, and shedding of new flows of low priority.

pub(crate) mod in_flight;
pub(crate) mod shedding;

use self::{in_flight::InFlight, shedding::Shedding};

/// Admission of new flows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    pub(crate) shedding: Shedding,
    pub(crate) in_flight: InFlight,
}
