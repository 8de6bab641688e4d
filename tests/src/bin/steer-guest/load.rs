//! Whether the verifier takes the programs, and what that costs it.

use anyhow::Result;
use steer_tests::programs;
use steer_user::dataplane::{OpenOptions, Xdp};

use crate::results::Results;

/// Loads all programs, and then the data path as the daemon does.
pub(crate) fn all(results: &mut Results) -> Result<()> {
    if let Err(error) = steer_user::dataplane::check_kernel() {
        return results.refuse(&error);
    }
    for (name, loaded) in programs::load_all()? {
        let figures = loaded.map(|loaded| [loaded.verified, loaded.jited]);
        results.program(&name, figures)?;
    }
    let opened = Xdp::open(&OpenOptions::default()).map(drop);
    results.tell("open", opened)?;
    Ok(())
}
