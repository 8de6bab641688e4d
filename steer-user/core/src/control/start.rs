//! All that a controller begins with.

use std::{sync::Arc, time::Instant};

use super::{backends::Operator, host::Host, record::recorder::Recorder};
use crate::domain::balance::{BalancePolicy, ConfiguredPolicy};

/// All that a controller begins with besides its configuration and data path.
#[derive(Debug)]
pub struct Start {
    /// Drains and weights that the operator set before.
    pub operator: Operator,
    /// Rule by which new flows are shared.
    pub policy: Arc<dyn BalancePolicy>,
    /// Journal and decisions.
    pub recorder: Recorder,
    /// The machine.
    pub host: Host,
}

impl Start {
    /// Begins without anything, on a machine whose clock begins with `now`: for simulations and tests.
    #[must_use]
    pub fn simulated(now: Instant) -> Self {
        let host = Host::simulated(now);
        Self {
            operator: Operator::default(),
            policy: Arc::new(ConfiguredPolicy),
            recorder: Recorder::silent(host.clock),
            host,
        }
    }
}
